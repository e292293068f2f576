//! What the demo claims: each claim with whether it held, each time with what was measured.

use std::fmt;

/// One claim.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim {
    text: String,
    seen: String,
    held: bool,
}

/// Claims and times in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    claims: Vec<Claim>,
    times: Vec<(String, u64)>,
}

impl Ledger {
    /// Notes a claim and what was seen; returns whether it held.
    pub fn claim(&mut self, text: &str, held: bool, seen: impl Into<String>) -> bool {
        let seen = seen.into();
        println!("  {} {text}{}", mark(held), detail(&seen));
        self.claims.push(Claim { text: text.to_owned(), seen, held });
        held
    }

    /// Notes a time, ms.
    pub fn time(&mut self, text: &str, ms: u64) {
        self.times.push((text.to_owned(), ms));
    }

    /// How many claims failed.
    pub fn failed(&self) -> usize {
        self.claims.iter().filter(|claim| !claim.held).count()
    }

    /// Whether all claims held, and there are any.
    pub fn all_held(&self) -> bool {
        self.failed() == 0 && !self.claims.is_empty()
    }
}

fn mark(held: bool) -> &'static str {
    if held { "[ok]  " } else { "[FAIL]" }
}

fn detail(seen: &str) -> String {
    if seen.is_empty() { String::new() } else { format!(": {seen}") }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for claim in &self.claims {
            writeln!(f, "  {} {}{}", mark(claim.held), claim.text, detail(&claim.seen))?;
        }
        for (text, ms) in &self.times {
            writeln!(f, "  {:>7.2} s  {text}", *ms as f64 / 1000.0)?;
        }
        write!(f, "  {} claims, {} failed", self.claims.len(), self.failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_claim_fails_the_demo_and_no_claim_at_all_does_too() {
        let mut ledger = Ledger::default();
        assert!(!ledger.all_held());
        ledger.claim("mail arrives", true, "200 of 200");
        ledger.time("take-over", 1500);
        assert!(ledger.all_held());
        ledger.claim("nothing is lost", false, "missing m-7");
        assert!(!ledger.all_held());
        let text = ledger.to_string();
        assert!(text.contains("[FAIL] nothing is lost: missing m-7") && text.contains("1.50 s  take-over"));
        assert!(text.ends_with("2 claims, 1 failed"));
    }
}
