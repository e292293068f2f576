//! The network of a container, entered from outside: for a container that has nothing but its own loopback.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{File, Metadata};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// How long a connection over loopback may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A network that is not this radiator's own. It stays as long as this does, whatever becomes of the process.
#[derive(Debug, Clone)]
pub struct Inside(Arc<File>);

impl Inside {
    /// The network of a process. Refused if it is ours: what answers there would be somebody else.
    pub fn of(pid: u32) -> io::Result<Self> {
        Self::at(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    fn at(path: &Path) -> io::Result<Self> {
        let namespace = File::open(path)?;
        let own = std::fs::metadata("/proc/self/ns/net")?;
        if is_same(&namespace.metadata()?, &own) {
            let why = format!("{} is this radiator's own network, none of a container's", path.display());
            return Err(io::Error::other(why));
        }
        Ok(Self(Arc::new(namespace)))
    }

    /// Connects to a port of its loopback. A thread enters the network for that and ends; the connection stays there.
    pub async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let (namespace, (tell, told)) = (self.0.clone(), oneshot::channel());
        std::thread::Builder::new().name("inside".into()).spawn(move || {
            // Whoever asked may have gone meanwhile: then nobody wants the connection.
            let _nobody_waits = tell.send(dial(&namespace, port));
        })?;
        let stream = told.await.map_err(io::Error::other)??;
        stream.set_nonblocking(true)?;
        TcpStream::from_std(stream)
    }
}

/// On a thread that is given up afterwards. Blocks.
fn dial(namespace: &File, port: u16) -> io::Result<std::net::TcpStream> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    std::net::TcpStream::connect_timeout(&to, CONNECT_MAX)
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_network_is_none_of_a_containers() {
        let error = Inside::of(std::process::id()).unwrap_err();
        assert!(error.to_string().contains("this radiator's own network"), "{error}");
        assert!(Inside::of(u32::MAX).is_err());
    }

    #[tokio::test]
    async fn what_is_no_network_cannot_be_entered_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        assert!(Inside::at(&path).unwrap().connect(1).await.is_err());
    }
}
