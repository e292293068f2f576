//! etcd's own interface, gRPC over HTTP/2 over mutual TLS, as little of it as a put and a read
//! need: the load shares the machine with what it measures, so the client is kept light.

use super::load::{Door, Value};
use anyhow::{Context, Result, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{Method, Request};
use prost::Message;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long one call may take.
const CALL_MAX: Duration = Duration::from_secs(10);
/// Flow-control windows large enough never to hold a call up, bytes.
const WINDOW: u32 = 16 << 20;

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

/// A linearizable read of one key: `serializable` is left out, hence false.
#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

/// A connection to a member.
pub struct EtcdDoor {
    requests: SendRequest<Bytes>,
    authority: String,
}

impl EtcdDoor {
    /// Connects.
    pub async fn open(to: SocketAddr, tls: Arc<ClientConfig>) -> Result<Self> {
        let stream = TcpStream::connect(to).await.with_context(|| format!("connect to etcd at {to}"))?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(to.ip().into());
        let stream = TlsConnector::from(tls).connect(name, stream).await.context("TLS with etcd")?;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (requests, connection) = builder.handshake(stream).await.context("HTTP/2 with etcd")?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to etcd ended");
            }
        });
        Ok(Self { requests, authority: to.to_string() })
    }

    /// One call: a message out, a message back, and the status in the trailers.
    async fn call<A: Message + Default>(&self, method: &str, message: &impl Message) -> Result<A> {
        timeout(CALL_MAX, self.call_unbounded(method, message))
            .await
            .context("etcd did not answer in time")?
    }

    async fn call_unbounded<A: Message + Default>(&self, method: &str, message: &impl Message) -> Result<A> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://{}/etcdserverpb.KV/{method}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut ready = self.requests.clone().ready().await?;
        let (response, mut body) = ready.send_request(request, false)?;
        body.send_data(framed(message), true)?;
        let response = response.await?;
        ensure!(response.status().is_success(), "etcd answered {}", response.status());
        let early = response.headers().get("grpc-status").cloned();
        let mut body = response.into_body();
        let mut answer = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            answer.put_slice(&chunk);
        }
        let trailers = body.trailers().await?;
        let told = |name: &str| trailers.as_ref().and_then(|t| t.get(name)).cloned();
        let status = told("grpc-status").or(early).context("etcd gave no status")?;
        ensure!(status == "0", "etcd refused: status {status:?}, {:?}", told("grpc-message"));
        unframed(answer.freeze())
    }

    /// A key's value, linearizable.
    pub async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        let request = RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()) };
        let response: RangeResponse = self.call("Range", &request).await?;
        Ok(response.kvs.into_iter().next().map(|found| found.value))
    }
}

impl Door for EtcdDoor {
    async fn put(&self, key: String, value: Value) -> Result<()> {
        let request = PutRequest { key: key.into(), value: Bytes::copy_from_slice(&value) };
        self.call::<PutResponse>("Put", &request).await.context("a put in etcd").map(drop)
    }
}

/// A message as gRPC frames it: not compressed, its length, itself.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(5 + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_slice(&message.encode_to_vec());
    bytes.freeze()
}

fn unframed<A: Message + Default>(mut bytes: Bytes) -> Result<A> {
    ensure!(bytes.len() >= 5, "etcd's answer ends too early");
    ensure!(bytes.get_u8() == 0, "etcd's answer is compressed");
    let length = bytes.get_u32() as usize;
    ensure!(bytes.len() == length, "etcd's answer has {} bytes, not {length}", bytes.len());
    A::decode(bytes).context("read etcd's answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_protocol_buffers_and_grpc_have_them() {
        let put = PutRequest { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"vv") };
        assert_eq!(framed(&put), &b"\x00\x00\x00\x00\x07\x0a\x01k\x12\x02vv"[..]);
        let answer = b"\x00\x00\x00\x00\x09\x12\x07\x0a\x01k\x2a\x02vv";
        let read: RangeResponse = unframed(Bytes::from_static(answer)).unwrap();
        assert_eq!(read.kvs[0].value, &b"vv"[..]);
        assert!(unframed::<PutResponse>(Bytes::from_static(b"\x00\x00\x00\x00\x09")).is_err());
        assert!(unframed::<PutResponse>(Bytes::from_static(b"\x01\x00\x00\x00\x00")).is_err());
    }
}
