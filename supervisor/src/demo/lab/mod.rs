//! Real radiators on one computer: each with its own network, mounts, engine and processes,
//! on a switch whose cables can be cut, and a client that knows only what a client knows.
//!
//! Everything a lab makes lives in one control group, one folder and namespaces that no one
//! else has, so that its end is certain: kill the group, remove the folder.

pub mod cgroup;
pub mod command;
pub mod guest;
pub mod held;
pub mod images;
pub mod machine;
pub mod radiator;
pub mod registry;
pub mod switch;
pub mod unit;

use cgroup::Cgroup;
pub use command::LabError;
pub use guest::Guest;
use images::Seed;
use machine::{Machine, Own};
use radiator::Plan;
pub use radiator::Radiator;
use registry::Registration;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use switch::{Port, Switch};

/// The floating address of a lab's home.
pub const FLOATING: Port = 50;
/// The client's port.
pub const CLIENT: Port = 100;
/// The first radiator's port.
const FIRST: Port = 11;
/// How many radiators a lab has at most.
const RADIATORS_MAX: usize = 30;

/// What a lab is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// The `thermidor` binary.
    pub binary: PathBuf,
    /// The folder in which labs and their images live.
    pub base: PathBuf,
    /// Images the radiators start with; `None`: their engines start empty.
    pub seed: Option<Seed>,
    /// Whether radiators have an engine.
    pub engine: bool,
    /// Environment of the radiators' units, beside what the lab sets.
    pub env: Vec<(String, String)>,
    /// The program with the verbs of [`super::DemoCommand`]: `thermidor` itself, unless a test
    /// runs another as the radiators'.
    pub helper: PathBuf,
}

impl Options {
    /// Options for the binary at that path, with everything beside it as `make` lays it out.
    pub fn beside(binary: &Path) -> Self {
        let base = binary.parent().and_then(Path::parent).unwrap_or(Path::new("target")).join("lab");
        let binary = binary.to_owned();
        Self { helper: binary.clone(), binary, base, seed: None, engine: true, env: Vec::new() }
    }

    fn reaper(&self) -> Vec<String> {
        vec![self.helper.to_string_lossy().into_owned(), "lab-reap".into()]
    }

    /// Makes the seed with these images unless it is there, and takes it.
    pub fn with_images(mut self, images: &[images::Image], say: &dyn Fn(&str)) -> Result<Self, LabError> {
        self.seed = Some(images::seed(&self.base, images, &self.reaper(), say)?);
        Ok(self)
    }
}

/// A lab. Dropping it removes all it made.
#[derive(Debug)]
pub struct Lab {
    // Fields are dropped in this order: units end first, the sweep comes last.
    radiators: Vec<Radiator>,
    client: Machine,
    switch: Arc<Switch>,
    group: Cgroup,
    name: String,
    dir: PathBuf,
    options: Options,
    _registration: Registration,
}

impl Lab {
    /// Makes a lab with these radiators, powered, engines starting.
    pub fn new(name: &str, radiators: &[&str], options: Options) -> Result<Self, LabError> {
        let dir = options.base.join("run").join(name);
        let registration = Registration::new(name, &dir, &options.reaper())?;
        let dir = std::fs::canonicalize(&dir).map_err(command::at("find", &dir))?;
        let group = Cgroup::of_lab(name)?;
        let switch = Arc::new(Switch::start(group.child("switch"))?);
        let client = Machine::start(group.child("client"), Own::Network)?;
        switch.plug(CLIENT, &client)?;
        let mut lab = Self {
            radiators: Vec::new(),
            client,
            switch,
            group,
            name: name.to_owned(),
            dir,
            options,
            _registration: registration,
        };
        for radiator in radiators {
            lab.add(radiator)?;
        }
        Ok(lab)
    }

    /// Adds a radiator, powered, its engine starting.
    pub fn add(&mut self, name: &str) -> Result<&Radiator, LabError> {
        self.add_with(name, self.options.engine)
    }

    /// Adds a machine without an engine: a witness.
    pub fn add_witness(&mut self, name: &str) -> Result<&Radiator, LabError> {
        self.add_with(name, false)
    }

    fn add_with(&mut self, name: &str, engine: bool) -> Result<&Radiator, LabError> {
        let refused = |why: &str| LabError::Refused { name: name.to_owned(), why: why.to_owned() };
        if thermidor_model::RadiatorName::new(name).is_err() || ["switch", "client"].contains(&name) {
            return Err(refused("that is no radiator's name"));
        }
        if self.radiators.iter().any(|r| r.name() == name) || self.radiators.len() == RADIATORS_MAX {
            return Err(refused("it exists already, or there are too many"));
        }
        let plan = Plan {
            lab: self.name.clone(),
            name: name.to_owned(),
            port: FIRST + self.radiators.len() as Port,
            dir: self.dir.join(name),
            group: self.group.child(name),
            binary: self.options.binary.clone(),
            seed: self.options.seed.clone().filter(|_| engine),
            engine,
            env: self.options.env.clone(),
        };
        self.radiators.push(Radiator::new(plan, self.switch.clone())?);
        Ok(&self.radiators[self.radiators.len() - 1])
    }

    /// The radiator of that name.
    pub fn radiator(&self, name: &str) -> Result<&Radiator, LabError> {
        let found = self.radiators.iter().find(|r| r.name() == name);
        found.ok_or_else(|| LabError::Unknown { what: "radiator", name: name.to_owned() })
    }

    /// All radiators, in the order in which they were made.
    pub fn radiators(&self) -> &[Radiator] {
        &self.radiators
    }

    /// Waits until every radiator's engine answers.
    pub fn engines_ready(&self) -> Result<(), LabError> {
        self.radiators.iter().filter(|r| r.has_engine()).try_for_each(Radiator::engine_ready)
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The home's floating address.
    pub fn floating(&self) -> Ipv4Addr {
        switch::address(FLOATING)
    }

    /// A command on the client's machine.
    pub fn client(&self, program: &str) -> Command {
        self.client.command(program)
    }

    /// Cuts one way: nothing sent by `from` reaches `to`. `client` is the client.
    pub fn cut_way(&self, from: &str, to: &str) -> Result<(), LabError> {
        self.switch.cut(self.port(from)?, self.port(to)?)
    }

    /// Cuts both ways between two machines.
    pub fn cut(&self, one: &str, other: &str) -> Result<(), LabError> {
        self.cut_way(one, other)?;
        self.cut_way(other, one)
    }

    /// Cuts a machine from everything; its link stays up.
    pub fn cut_all(&self, name: &str) -> Result<(), LabError> {
        self.switch.cut_all(self.port(name)?)
    }

    /// Loses that many of a hundred frames that a machine sends.
    pub fn drop_percent(&self, name: &str, percent: u8) -> Result<(), LabError> {
        self.switch.drop_percent(self.port(name)?, percent)
    }

    /// Mends every cable.
    pub fn heal(&self) -> Result<(), LabError> {
        self.switch.heal()
    }

    fn port(&self, name: &str) -> Result<Port, LabError> {
        if name == "client" { Ok(CLIENT) } else { Ok(self.radiator(name)?.port()) }
    }
}
