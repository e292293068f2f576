//! From one radiator's ingress to another's: one mutually authenticated TLS connection per
//! client, opened by a small frame and accepted or refused by a smaller one.

use super::routes::Way;
use super::session::{Refused, dial, reached};
use super::{Shared, pass};
use crate::ingress::cuts::Under;
use crate::link::Link;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use thermidor_model::{NodeId, ServiceName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Version of both frames, as the first bytes.
const MAGIC: [u8; 4] = *b"TMI1";
/// Longest opening frame after magic and length.
const FRAME_MAX: usize = 256;
/// Bytes of the answer: verdict and epoch.
const ANSWER: usize = 9;
const ACCEPTED: u8 = 0;
/// A peer that has not opened its tunnel by then is dropped.
const OPENING_MAX: Duration = Duration::from_secs(2);
/// A peer that has not answered by then is dead or busy: park and try again.
const ANSWER_MAX: Duration = Duration::from_millis(1500);

/// What a tunnel is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The service.
    pub service: ServiceName,
    /// Its published port.
    pub published: u16,
    /// The epoch the asker knows; a radiator that knows only an older one refuses.
    pub epoch: u64,
    /// The client.
    pub client: SocketAddr,
    /// The address that the client reached.
    pub server: SocketAddr,
}

impl Opening {
    fn encode(&self) -> io::Result<Vec<u8>> {
        let body = postcard::to_stdvec(self).map_err(io::Error::other)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend((body.len() as u16).to_le_bytes());
        bytes.extend(body);
        Ok(bytes)
    }

    async fn read(from: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Self> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_string());
        let mut head = [0; 6];
        from.read_exact(&mut head).await?;
        let len = usize::from(u16::from_le_bytes([head[4], head[5]]));
        if head[..4] != MAGIC || len > FRAME_MAX {
            return Err(invalid("no tunnel's opening"));
        }
        let mut body = vec![0; len];
        from.read_exact(&mut body).await?;
        postcard::from_bytes(&body).map_err(|e| invalid(&e.to_string()))
    }
}

/// Opens a tunnel to a member; answers it with the epoch in which that member serves.
pub async fn open(
    link: &Link,
    node: NodeId,
    address: SocketAddr,
    opening: &Opening,
) -> Result<(client::TlsStream<TcpStream>, u64), Refused> {
    let opened = async {
        let stream = dial(address).await?;
        let mut tls = TlsConnector::from(link.client.clone())
            .connect(link.server_name.clone(), stream)
            .await
            .map_err(|e| Refused::tunnel(node, &e))?;
        let peer =
            tls.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(|c| (link.peer_of)(c));
        if peer != Some(node) {
            return Err(Refused::Stranger { wanted: node, found: peer });
        }
        let frame = opening.encode().map_err(|e| Refused::tunnel(node, &e))?;
        tls.write_all(&frame).await.map_err(|e| Refused::tunnel(node, &e))?;
        tls.flush().await.map_err(|e| Refused::tunnel(node, &e))?;
        let mut answer = [0; ANSWER];
        tls.read_exact(&mut answer).await.map_err(|e| Refused::tunnel(node, &e))?;
        let epoch = u64::from_le_bytes(answer[1..].try_into().unwrap_or_default());
        if answer[0] == ACCEPTED { Ok((tls, epoch)) } else { Err(Refused::Peer { node }) }
    };
    tokio::time::timeout(ANSWER_MAX, opened).await.unwrap_or(Err(Refused::Silent { node }))
}

/// Takes one connection on the tunnel's port. Whoever is no member, has nothing to say, or asks for what
/// this radiator does not serve is turned away.
pub async fn accept(shared: &Shared, stream: TcpStream, from: SocketAddr) {
    let opened = tokio::time::timeout(OPENING_MAX, receive(shared, stream)).await;
    let (mut tls, opening) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(e)) => return tracing::warn!(%from, error = %e, "a tunnel was turned away"),
        Err(_) => return tracing::warn!(%from, "a tunnel was not opened in time"),
    };
    let (answer, reached) = match serve(shared, &opening).await {
        Ok((upstream, under)) => (answer(ACCEPTED, under.epoch), Some((upstream, under))),
        Err(why) => {
            tracing::debug!(service = %opening.service, %why, "a tunnel was refused");
            (answer(1, 0), None)
        }
    };
    let answered = async {
        tls.write_all(&answer).await?;
        tls.flush().await
    };
    if let (Ok(()), Some((mut upstream, under))) = (answered.await, reached) {
        let seat = shared.cuts.enter(under);
        let shown = tls.get_ref().1.peer_certificates().map(|shown| shown.to_vec());
        let end = tokio::select! {
            end = pass::pass(&mut tls, &mut upstream, &[], &seat, &shared.leases) => end,
            () = shared.link.refused(shown.as_deref()) => pass::End::Cut,
        };
        if end == pass::End::Cut {
            // Whatever is still queued is not to reach the client.
            let reset = tls.get_ref().0.set_zero_linger();
            reset.unwrap_or_else(|e| tracing::debug!(error = %e, "a cut tunnel was closed without reset"));
        }
    }
}

fn answer(verdict: u8, epoch: u64) -> [u8; ANSWER] {
    let mut bytes = [verdict; ANSWER];
    bytes[1..].copy_from_slice(&epoch.to_le_bytes());
    bytes
}

async fn receive(shared: &Shared, stream: TcpStream) -> io::Result<(server::TlsStream<TcpStream>, Opening)> {
    let link = &shared.link;
    stream.set_nodelay(true)?;
    let mut tls = TlsAcceptor::from(link.server.clone()).accept(stream).await?;
    let peer = tls.get_ref().1.peer_certificates().and_then(|c| c.first()).and_then(|c| (link.peer_of)(c));
    if !peer.is_some_and(|peer| shared.routes().members.contains_key(&peer)) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{peer:?} is no member")));
    }
    let opening = Opening::read(&mut tls).await?;
    Ok((tls, opening))
}

/// Dials the container for a peer, if this radiator may serve it.
async fn serve(shared: &Shared, opening: &Opening) -> Result<(TcpStream, Under), Refused> {
    let routes = shared.routes();
    let (route, port) = routes
        .by_port(opening.published)
        .filter(|(route, _)| route.name == opening.service)
        .ok_or(Refused::Nowhere("no service has this port"))?;
    if route.epoch < opening.epoch {
        return Err(Refused::Nowhere("this radiator knows only an older epoch"));
    }
    let holds = |name: &ServiceName, epoch| shared.leases.hold(name, epoch);
    match routes.way(shared.link.node, opening.published, 0, holds) {
        Way::Here(backend) => {
            let stream = reached(backend, port.proxy_protocol, opening.client, opening.server).await?;
            Ok((stream, Under { service: route.name.clone(), epoch: route.epoch, leased: true }))
        }
        Way::Through(..) => Err(Refused::Nowhere("another radiator is active")),
        Way::Nowhere(why) => Err(Refused::Nowhere(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_opening_survives_the_wire_and_garbage_is_none() {
        let opening = Opening {
            service: "a".repeat(40).parse().unwrap(),
            published: 65535,
            epoch: u64::MAX,
            client: "[2001:db8::1]:65535".parse().unwrap(),
            server: "[2001:db8::2]:25".parse().unwrap(),
        };
        let bytes = opening.encode().unwrap();
        assert!(bytes.len() <= FRAME_MAX + 6, "{}", bytes.len());
        assert_eq!(Opening::read(&mut &bytes[..]).await.unwrap(), opening);
        assert!(Opening::read(&mut &bytes[..20]).await.is_err(), "cut short");
        for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"TMI1\xff\xff", b"TMI1\x03\x00\xff\xff\xff"] {
            assert!(Opening::read(&mut &garbage[..]).await.is_err());
        }
    }
}
