//! An engine that does what it is asked and does not answer: between a radiator's daemon and its Docker
//! stands a door of the test's own that holds back what is answered to a start.

use anyhow::{Context, Result};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use thermidor_supervisor::demo::lab::Radiator;

/// How often a thread looks whether it is to go on.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct Shared {
    closing: AtomicBool,
    starts: AtomicUsize,
}

/// The door. Dropping it lets the daemon at its engine again.
#[derive(Debug)]
pub struct Door {
    socket: PathBuf,
    engine: PathBuf,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Door {
    /// Puts itself before a radiator's engine, for all connections from now on.
    pub fn before(radiator: &Radiator) -> Result<Self> {
        let socket = radiator.engine_socket()?;
        let engine = socket.with_extension("real");
        fs::rename(&socket, &engine).with_context(|| format!("move {}", socket.display()))?;
        let listener =
            UnixListener::bind(&socket).with_context(|| format!("listen on {}", socket.display()))?;
        listener.set_nonblocking(true)?;
        let shared = Arc::<Shared>::default();
        let accepting = {
            let (shared, engine) = (shared.clone(), engine.clone());
            thread::spawn(move || {
                while !shared.closing.load(Ordering::SeqCst) {
                    if let Ok((near, _)) = listener.accept() {
                        // A connection that breaks off is what the daemon is to bear.
                        let _ = lead(near, &engine, &shared);
                    } else {
                        thread::sleep(PAUSE);
                    }
                }
            })
        };
        Ok(Self { socket, engine, shared, accepting: Some(accepting) })
    }

    /// How many starts were asked for, none of which was answered.
    pub fn starts(&self) -> usize {
        self.shared.starts.load(Ordering::SeqCst)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        if let Some(accepting) = self.accepting.take() {
            let joined = accepting.join();
            // Replaces the door's socket; where the radiator lost its power both are gone.
            let back = fs::rename(&self.engine, &self.socket);
            if !thread::panicking() {
                joined.expect("the door's thread");
                back.expect("the engine's socket back in its place");
            }
        }
    }
}

/// Leads one connection to the engine.
fn lead(near: UnixStream, engine: &PathBuf, shared: &Arc<Shared>) -> io::Result<()> {
    near.set_nonblocking(false)?;
    let far = UnixStream::connect(engine)?;
    let held = Arc::new(AtomicBool::new(false));
    let (mut from, mut to) = (near.try_clone()?, far.try_clone()?);
    {
        let (shared, held) = (shared.clone(), held.clone());
        thread::spawn(move || {
            pass(&mut from, &mut to, |bytes| {
                let line = bytes.split(|b| *b == b'\r').next().unwrap_or_default();
                let line = String::from_utf8_lossy(line);
                if line.starts_with("POST ") && line.contains("/start") {
                    held.store(true, Ordering::SeqCst);
                    shared.starts.fetch_add(1, Ordering::SeqCst);
                }
            })
        });
    }
    let (mut from, mut to, shared) = (far, near, shared.clone());
    thread::spawn(move || {
        pass(&mut from, &mut to, |_| {
            while held.load(Ordering::SeqCst) && !shared.closing.load(Ordering::SeqCst) {
                thread::sleep(PAUSE);
            }
        })
    });
    Ok(())
}

/// Copies until one side ends; `look` sees each piece before it goes on.
fn pass(from: &mut UnixStream, to: &mut UnixStream, look: impl Fn(&[u8])) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut piece) {
        look(&piece[..count]);
        if count == 0 || to.write_all(&piece[..count]).is_err() {
            break;
        }
    }
    // The other side may have gone first.
    let _ = to.shutdown(std::net::Shutdown::Write);
}
