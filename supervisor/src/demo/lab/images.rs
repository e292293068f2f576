//! The images a lab's radiators start with, made once on this computer without any image
//! registry: a Debian base by debootstrap, the rest built on it by an engine of the lab's own,
//! whose store then is the seed of each radiator's.

use super::cgroup::Cgroup;
use super::command::{LabError, at, ended, line, output, until};
use super::machine::{Machine, Own};
use super::registry::{REGISTRY, Registration};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The tag of the base, which Dockerfiles name in `FROM`.
pub const BASE: &str = "debian:bookworm-slim";
/// How long the building engine may take to start or stop.
const ENGINE_SETTLE: Duration = Duration::from_secs(60);

/// An image to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Name and tag.
    pub tag: String,
    /// What it is built from.
    pub context: Context,
}

/// What an image is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Context {
    /// A `Dockerfile` alone.
    Dockerfile(String),
    /// A packed folder (tar) with a `Dockerfile` in it.
    Packed(Vec<u8>),
}

/// The record service: appends each line it is sent to its volume, fsyncs, then answers.
pub fn record() -> Image {
    let program = include_str!("../images/record.pl");
    let dockerfile = include_str!("../images/record.dockerfile");
    // A Dockerfile alone has no files beside it: the program stands in one of its lines.
    let packed: String = program.bytes().map(|byte| format!("{byte:02x}")).collect();
    Image {
        tag: "thermidor/record:1".into(),
        context: Context::Dockerfile(dockerfile.replace("@PROGRAM@", &packed)),
    }
}

/// An engine's store that holds all images wanted.
#[derive(Debug, Clone)]
pub struct Seed(PathBuf);

/// Folders of a store whose files are never changed once written: layers.
const LAYERS: [&str; 2] = ["overlay2", "vfs"];

impl Seed {
    /// Makes an engine's store at `root` from the seed. Layers are linked, not copied: no
    /// engine writes into one, and radiators share them in the page cache.
    pub fn plant(&self, root: &Path) -> Result<(), LabError> {
        copy_store(&self.0, root)
    }
}

fn copy_store(from: &Path, to: &Path) -> Result<(), LabError> {
    fs::create_dir_all(to).map_err(at("make", to))?;
    for entry in fs::read_dir(from).map_err(at("read", from))? {
        let path = entry.map_err(at("read", from))?.path();
        let is_layers = LAYERS.iter().any(|name| path.ends_with(name));
        let linked = is_layers && output(Command::new("cp").arg("-al").arg(&path).arg(to)).is_ok();
        if !linked {
            output(Command::new("cp").arg("-a").arg(&path).arg(to))?;
        }
    }
    Ok(())
}

fn digest(images: &[Image]) -> String {
    let mut hash = blake3::Hasher::new();
    for image in images {
        let context = match &image.context {
            Context::Dockerfile(text) => text.as_bytes(),
            Context::Packed(tar) => tar,
        };
        hash.update(image.tag.as_bytes()).update(&[0]);
        hash.update(&(context.len() as u64).to_le_bytes()).update(context);
    }
    hash.finalize().to_hex()[..16].to_owned()
}

/// The seed with these images, made in the folder `cache` unless it is there. `say` is told
/// what takes long; `reaper` is as for a lab.
pub fn seed(cache: &Path, images: &[Image], reaper: &[String], say: &dyn Fn(&str)) -> Result<Seed, LabError> {
    fs::create_dir_all(cache).map_err(at("make", cache))?;
    let cache = &fs::canonicalize(cache).map_err(at("find", cache))?;
    let path = cache.join("building");
    let lock = File::create(&path).map_err(at("open", &path))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|e| at("lock", &path)(e.into()))?;
    let name = format!("seed-{}", digest(images));
    let done = cache.join(&name);
    if done.exists() {
        return Ok(Seed(done));
    }
    let base = base(cache, say)?;
    let builder = Builder::start(cache, reaper)?;
    builder.import(&base)?;
    for image in images {
        say(&format!("building the image {}", image.tag));
        builder.build(cache, image)?;
    }
    builder.stop()?;
    let unfinished = cache.join("seed.part");
    remove_tree(&unfinished)?;
    copy_store(&cache.join("store"), &unfinished)?;
    for old in fs::read_dir(cache).map_err(at("read", cache))?.flatten() {
        if old.file_name().to_string_lossy().starts_with("seed-") {
            remove_tree(&old.path())?;
        }
    }
    fs::rename(&unfinished, &done).map_err(at("rename", &unfinished))?;
    Ok(Seed(done))
}

fn remove_tree(path: &Path) -> Result<(), LabError> {
    if path.exists() { fs::remove_dir_all(path).map_err(at("remove", path)) } else { Ok(()) }
}

/// The base as a tar file, made by debootstrap unless it is there.
fn base(cache: &Path, say: &dyn Fn(&str)) -> Result<PathBuf, LabError> {
    let done = cache.join("base.tar");
    if done.exists() {
        return Ok(done);
    }
    say("making the Debian base image with debootstrap (once, about a minute)");
    let tree = cache.join("base.part");
    remove_tree(&tree)?;
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", "--include=ca-certificates", "bookworm"]);
    output(command.arg(&tree))?;
    for folder in ["var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"] {
        let path = tree.join(folder);
        remove_tree(&path)?;
        fs::create_dir_all(&path).map_err(at("make", &path))?;
    }
    let part = cache.join("base.tar.part");
    output(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(&part).arg("."))?;
    remove_tree(&tree)?;
    fs::rename(&part, &done).map_err(at("rename", &part))?;
    Ok(done)
}

/// An engine that builds on this computer's own network.
struct Builder {
    machine: Option<Machine>,
    engine: Child,
    socket: String,
    _registration: Registration,
}

impl Drop for Builder {
    fn drop(&mut self) {
        // What lives on the machine dies with it; the engine is then only to be reaped.
        self.machine.take();
        self.engine.wait().ok();
    }
}

impl Builder {
    fn start(cache: &Path, reaper: &[String]) -> Result<Self, LabError> {
        let name = format!("builder-{}", std::process::id());
        let run = Path::new(REGISTRY).join(&name);
        let registration = Registration::new(&name, &run, reaper)?;
        let group = Cgroup::of_lab(&name)?;
        let machine = Machine::start(group.clone(), Own::Mounts)?;
        let socket = format!("unix://{}/docker.sock", run.display());
        let log_path = cache.join("builder.log");
        let log = || File::options().create(true).append(true).open(&log_path).map_err(at("open", &log_path));
        let config = run.join("daemon.json");
        fs::write(&config, "{}").map_err(at("write", &config))?;
        let mut command = machine.command("dockerd");
        command.arg("--config-file").arg(&config);
        command.arg("--data-root").arg(cache.join("store")).arg("--exec-root").arg(run.join("exec"));
        command.arg("--pidfile").arg(run.join("pid")).args(["--host", &socket]);
        let containers = group.child("containers");
        command.args([
            "--exec-opt",
            "native.cgroupdriver=cgroupfs",
            "--cgroup-parent",
            containers.below_root(),
        ]);
        command.args(["--iptables=false", "--ip-masq=false", "--bridge=none"]);
        command.stdin(Stdio::null()).stdout(log()?).stderr(log()?);
        let engine = command.spawn().map_err(|source| LabError::Start { command: line(&command), source })?;
        let builder = Self { machine: Some(machine), engine, socket, _registration: registration };
        until(ENGINE_SETTLE, "the engine that builds images", || {
            Ok(builder.docker(&["version"]).is_ok_and(|mut c| output(&mut c).is_ok()).then_some(()))
        })?;
        Ok(builder)
    }

    fn docker(&self, args: &[&str]) -> Result<Command, LabError> {
        let machine = self.machine.as_ref().ok_or_else(|| LabError::NoPower("the builder".into()))?;
        let mut command = machine.command("docker");
        command.args(["--host", &self.socket]).args(args).env("DOCKER_BUILDKIT", "0");
        Ok(command)
    }

    fn import(&self, base: &Path) -> Result<(), LabError> {
        output(self.docker(&["import"])?.arg(base).arg(BASE)).map(|_| ())
    }

    fn build(&self, cache: &Path, image: &Image) -> Result<(), LabError> {
        let mut command =
            self.docker(&["build", "--network=host", "--force-rm", "--tag", &image.tag, "-"])?;
        let path = cache.join("context");
        let context = match &image.context {
            Context::Dockerfile(text) => text.as_bytes(),
            Context::Packed(tar) => tar,
        };
        fs::write(&path, context).map_err(at("write", &path))?;
        command.stdin(File::open(&path).map_err(at("open", &path))?);
        ended(&mut command)?;
        fs::remove_file(&path).map_err(at("remove", &path))
    }

    /// Stops the engine in order, so that its store is whole.
    fn stop(mut self) -> Result<(), LabError> {
        let Some(machine) = self.machine.take() else { return Ok(()) };
        let pid = Pid::from_child(&self.engine);
        // It is a child of ours that was not reaped: the number is still its own.
        kill_process(pid, Signal::TERM)
            .map_err(|e| at("stop the engine of", Path::new(&self.socket))(e.into()))?;
        until(ENGINE_SETTLE, "the engine that builds images to stop", || {
            let ended = self.engine.try_wait();
            Ok(ended.map_err(at("wait for the engine of", Path::new(&self.socket)))?.map(|_| ()))
        })?;
        machine.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_or_tag_asks_for_another_seed() {
        let one = digest(&[record()]);
        assert_eq!(one, digest(&[record()]));
        let other = Context::Dockerfile("FROM scratch".into());
        assert_ne!(one, digest(&[Image { context: other, ..record() }]));
        assert_ne!(one, digest(&[Image { tag: "thermidor/record:2".into(), ..record() }]));
    }

    #[test]
    fn layers_are_linked_and_all_else_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        for folder in ["overlay2/layer", "image"] {
            fs::create_dir_all(from.join(folder)).unwrap();
            fs::write(from.join(folder).join("file"), "x").unwrap();
        }
        Seed(from.clone()).plant(&to).unwrap();
        let inode = |path: PathBuf| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        assert_eq!(inode(from.join("overlay2/layer/file")), inode(to.join("overlay2/layer/file")));
        assert_ne!(inode(from.join("image/file")), inode(to.join("image/file")));
    }
}
