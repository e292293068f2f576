//! What was found in a `home.yaml`: errors and notices with their places, and how they are shown.

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use std::fmt;

/// A place in the text of a `home.yaml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Bytes before it.
    pub offset: usize,
    /// Its length, bytes, within one line.
    pub len: usize,
}

impl Place {
    /// The first character of the file.
    pub const START: Place = Place { line: 1, column: 1, offset: 0, len: 0 };

    /// The same place kept inside of the text and of its first line.
    pub(super) fn within(self, text: &str) -> Self {
        let mut offset = self.offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let rest = &text[offset..];
        let line_end = rest.find('\n').unwrap_or(rest.len());
        let mut len = self.len.min(line_end);
        while !text.is_char_boundary(offset + len) {
            len -= 1;
        }
        let len = text[offset..offset + len].trim_end().len();
        Self { offset, len, ..self }
    }
}

impl From<&serde_saphyr::Location> for Place {
    fn from(location: &serde_saphyr::Location) -> Self {
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let span = location.span();
        Self {
            line: number(location.line()).max(1),
            column: number(location.column()).max(1),
            offset: number(span.byte_offset().unwrap_or(0)),
            len: number(span.byte_len().unwrap_or(0)),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
    /// Other places it clashes with, and what is there.
    pub also: Vec<(Place, String)>,
}

impl Problem {
    pub(super) fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }

    pub(super) fn also(&mut self, place: Place, text: impl Into<String>) -> &mut Self {
        self.also.push((place, text.into()));
        self
    }
}

/// Something that is taken otherwise than written, or not at all; nothing is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Where.
    pub place: Place,
    /// What is done with it.
    pub message: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place.line, self.place.column, self.message)
    }
}

/// Everything wrong with a file, in the order of its lines. Its `Display` is one line
/// each; [`SpecErrors::render`] shows the offending lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecErrors {
    /// The file's name as given.
    pub file_name: String,
    /// At least one.
    pub problems: Vec<Problem>,
    /// The text, with passwords given in clear starred out.
    text: String,
}

impl std::error::Error for SpecErrors {}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, p) in self.problems.iter().enumerate() {
            let gap = if i == 0 { "" } else { "\n" };
            write!(f, "{gap}{}:{}:{}: {}", self.file_name, p.place.line, p.place.column, p.message)?;
            if let Some(help) = &p.help {
                write!(f, " ({help})")?;
            }
        }
        Ok(())
    }
}

impl SpecErrors {
    /// One error that was found after the file was read, at the value of that path
    /// (`["services", "mail", "settings"]`), or at the nearest that is there.
    pub fn later(file_name: &str, text: &str, path: &[&str], message: String, help: Option<String>) -> Self {
        let place = super::tree::place_of(text, path);
        let problems = vec![Problem { place, message, help, also: Vec::new() }];
        Self { file_name: file_name.to_string(), problems, text: text.to_string() }
    }

    /// Shows every problem with its line, a caret and what would be right;
    /// in colour for a terminal.
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme)
            .with_width(100)
            .with_wrap_lines(false)
            .with_context_lines(1)
            .with_links(false);
        let source = NamedSource::new(&self.file_name, self.text.clone());
        let mut out = String::new();
        for problem in &self.problems {
            let shown = Shown { problem, source: &source };
            if handler.render_report(&mut out, &shown).is_err() {
                out.push_str(&problem.message);
            }
            out.push('\n');
        }
        let many = if self.problems.len() == 1 { "error" } else { "errors" };
        out.push_str(&format!("{}: {} {many}\n", self.file_name, self.problems.len()));
        out
    }
}

struct Shown<'a> {
    problem: &'a Problem,
    source: &'a NamedSource<String>,
}

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.problem, f)
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let own = if self.problem.also.is_empty() { "here" } else { "and here" };
        let label = |place: &Place, text: &str| {
            LabeledSpan::new(Some(text.to_string()), place.offset, place.len.max(1))
        };
        let others = self.problem.also.iter().map(move |(place, text)| label(place, text));
        Some(Box::new(others.chain(std::iter::once(label(&self.problem.place, own)))))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.problem.help.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }
}

/// Collects while a file is read.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub problems: Vec<Problem>,
    pub notices: Vec<Notice>,
    /// Passwords given in clear: never to be shown.
    concealed: Vec<Place>,
}

/// Most errors that are shown; a file that has more is no `home.yaml`.
const PROBLEMS_MAX: usize = 100;

impl Findings {
    /// Adds an error; help and clashing places may be added to what is returned.
    pub fn error(&mut self, place: Place, message: impl Into<String>) -> &mut Problem {
        let index = self.problems.len();
        self.problems.push(Problem { place, message: message.into(), help: None, also: Vec::new() });
        &mut self.problems[index]
    }

    /// Adds a notice.
    pub fn notice(&mut self, place: Place, message: impl Into<String>) {
        self.notices.push(Notice { place, message: message.into() });
    }

    /// Keeps a value out of everything that is shown.
    pub fn conceal(&mut self, place: Place) {
        self.concealed.push(place);
    }

    /// The errors as one value, in order of their places.
    pub fn into_errors(mut self, file_name: &str, text: &str) -> SpecErrors {
        self.problems.sort_by_key(|p| (p.place.line, p.place.column));
        self.problems.truncate(PROBLEMS_MAX);
        let mut bytes = text.as_bytes().to_vec();
        for place in &self.concealed {
            let end = (place.offset + place.len).min(bytes.len());
            bytes[place.offset.min(end)..end].fill(b'*');
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        SpecErrors { file_name: file_name.to_string(), problems: self.problems, text }
    }
}
