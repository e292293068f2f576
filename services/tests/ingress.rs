//! Two or three ingresses on loopback addresses of their own, with real TLS between them:
//! what passes, what parks, what is cut and what is turned away.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use thermidor_model::NodeId;
use thermidor_services::ingress::{
    IngressOptions, IngressStatus, PortRoute, ROUTES_FILE, Route, Routes, run,
};
use thermidor_services::lease_page::{Held, LeasePage};
use thermidor_services::link::Link;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// Nothing here takes so long; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ports of this file's tests, outside the range the kernel gives to clients.
static NEXT_PORT: AtomicU16 = AtomicU16::new(21_000);

fn port() -> u16 {
    NEXT_PORT.fetch_add(1, Ordering::Relaxed)
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A home's authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// Members that are refused by now.
    refused: watch::Sender<Vec<NodeId>>,
}

/// Whose certificate it is. Enough for a test: the name stands in the DER as it is.
fn peer_of(certificate: &CertificateDer<'_>) -> Option<NodeId> {
    let text = String::from_utf8_lossy(certificate.as_ref()).into_owned();
    let (_, rest) = text.split_once("node-")?;
    rest.split('.').next()?.parse().ok()
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, "a home");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate, refused: watch::Sender::default() }
    }

    /// A member's identity; its number is the certificate's last DNS name.
    fn link(&self, node: NodeId, trusted: &Authority) -> Link {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["member.home".into(), format!("node-{node}.home")]).unwrap();
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let mut roots = RootCertStore::empty();
        roots.add(trusted.certificate.clone()).unwrap();
        let roots = Arc::new(roots);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().unwrap();
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key().into())
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key.into())
            .unwrap();
        let refused = trusted.refused.subscribe();
        Link {
            node,
            server: Arc::new(server),
            client: Arc::new(client),
            server_name: ServerName::try_from("member.home").unwrap(),
            until_refused: Arc::new(move |certificate| {
                let (mut refused, peer) = (refused.clone(), peer_of(&certificate).unwrap());
                Box::pin(async move { drop(refused.wait_for(|refused| refused.contains(&peer)).await) })
            }),
            peer_of: Arc::new(peer_of),
        }
    }
}

/// A radiator's ingress.
struct Radiator {
    node: NodeId,
    dir: TempDir,
    page: LeasePage,
    link: Link,
    tunnel: SocketAddr,
    ending: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Radiator {
    fn ip(&self) -> IpAddr {
        self.tunnel.ip()
    }

    fn begin(&mut self) {
        self.ending = CancellationToken::new();
        let _ = std::fs::remove_file(self.dir.path().join("ingress.json"));
        let mut options = IngressOptions::new(
            self.dir.path(),
            &self.dir.path().join("leases"),
            self.link.clone(),
            self.tunnel,
        );
        options.listen = vec![self.ip()];
        self.task = Some(tokio::spawn(run(options, self.ending.clone())));
    }

    fn lease(&self, epoch: u64, until_ns: u64) {
        self.page.set("mail", Held { epoch, until_ns }).unwrap();
    }

    fn status(&self) -> IngressStatus {
        let text = std::fs::read(self.dir.path().join("ingress.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    async fn listens(&self, port: u16) {
        until("listening", || self.status().listening.contains(&SocketAddr::new(self.ip(), port))).await;
    }

    async fn connect(&self, port: u16) -> TcpStream {
        self.listens(port).await;
        soon("a connection", TcpStream::connect((self.ip(), port))).await.unwrap()
    }
}

impl Drop for Radiator {
    fn drop(&mut self) {
        self.ending.cancel();
    }
}

/// A home of three, and the table that its daemons write.
struct Home {
    authority: Authority,
    radiators: Vec<Radiator>,
    table: Routes,
    published: u16,
}

impl Home {
    /// Mail is active on member 1 in epoch 4, with its backend there.
    fn new(backend: SocketAddr, proxy_protocol: bool) -> Self {
        let (authority, published) = (Authority::new(), port());
        let radiators: Vec<Radiator> = (1..=3u8)
            .map(|node| {
                let dir = tempfile::tempdir().unwrap();
                let page = LeasePage::create(&dir.path().join("leases")).unwrap();
                let link = authority.link(node.into(), &authority);
                let tunnel = SocketAddr::new(Ipv4Addr::new(127, 0, 7, node).into(), port());
                let mut radiator = Radiator {
                    node: node.into(),
                    dir,
                    page,
                    link,
                    tunnel,
                    ending: CancellationToken::new(),
                    task: None,
                };
                radiator.begin();
                radiator
            })
            .collect();
        let mail = Route {
            name: "mail".parse().unwrap(),
            epoch: 4,
            active: Some(1),
            backend: Some(backend.ip()),
            ports: vec![PortRoute { published, target: backend.port(), proxy_protocol }],
        };
        let members = radiators.iter().map(|r| (r.node, r.tunnel)).collect();
        let table = Routes { park_max_ms: 15_000, members, services: vec![mail], ..Routes::default() };
        let home = Self { authority, radiators, table, published };
        home.radiators[0].lease(4, u64::MAX);
        home.tell();
        home
    }

    fn tell(&self) {
        for radiator in &self.radiators {
            self.table.save(radiator.dir.path()).unwrap();
        }
    }

    /// Lets mail have another port, so that [`Home::connect`] waits for the table it stands in.
    fn republish(&mut self) {
        self.published = port();
        self.table.services[0].ports[0].published = self.published;
        self.tell();
    }

    async fn connect(&self, node: usize) -> TcpStream {
        self.radiators[node - 1].connect(self.published).await
    }
}

/// Greets with `name`, then echoes.
async fn echo(name: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let _ = stream.write_all(name.as_bytes()).await;
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
                let _ = write.write_all(b"bye").await;
            });
        }
    });
    (at, count)
}

async fn reads(stream: &mut TcpStream, wanted: &str) {
    let mut bytes = vec![0; wanted.len()];
    soon(wanted, stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&bytes), wanted);
}

/// Reads to the end, whichever way it ends.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let clean = soon("the end", stream.read_to_end(&mut bytes)).await.is_ok();
    (bytes, clean)
}

#[tokio::test]
async fn bytes_pass_here_and_through_and_half_closed_ends_are_kept() {
    let (backend, _) = echo("hello").await;
    let home = Home::new(backend, false);
    for node in [1, 2, 3] {
        let mut client = home.connect(node).await;
        reads(&mut client, "hello").await;
        let sent: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        let (mut read, mut write) = client.split();
        let wrote = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, end) = tokio::join!(wrote, soon("the echo", read.read_to_end(&mut got)));
        end.unwrap();
        assert!(got[..got.len() - 3] == sent[..] && got.ends_with(b"bye"), "{} bytes on {node}", got.len());
    }
}

#[tokio::test]
async fn an_open_tunnel_is_cut_when_its_member_is_refused() {
    let (backend, _) = echo("hello").await;
    let home = Home::new(backend, false);
    let (mut of_a_member, mut of_the_thief) = (home.connect(2).await, home.connect(3).await);
    for client in [&mut of_a_member, &mut of_the_thief] {
        reads(client, "hello").await;
        client.write_all(b"who am I").await.unwrap();
        reads(client, "who am I").await;
    }
    home.authority.refused.send_replace(vec![3]);
    let (said, _) = rest(&mut of_the_thief).await;
    assert_eq!(said, b"", "the other end says nothing more, not even goodbye");
    of_a_member.write_all(b"still here").await.unwrap();
    reads(&mut of_a_member, "still here").await;
}

#[tokio::test]
async fn the_container_is_told_the_clients_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let home = Home::new(listener.local_addr().unwrap(), true);
    // None ends while the next is looked at: one that is hung up on would be tried again.
    let mut open = Vec::new();
    for node in [1, 3] {
        let client = home.connect(node).await;
        let (mut stream, _) = soon("the container's connection", listener.accept()).await.unwrap();
        let mut header = [0; 28];
        soon("the header", stream.read_exact(&mut header)).await.unwrap();
        let own = client.local_addr().unwrap();
        let IpAddr::V4(ip) = own.ip() else { panic!("{own}") };
        assert_eq!(header[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c");
        assert_eq!(header[16..20], ip.octets());
        assert_eq!(header[20..24], [127, 0, 7, node as u8], "what the client reached");
        assert_eq!(header[24..26], own.port().to_be_bytes());
        assert_eq!(header[26..28], home.published.to_be_bytes());
        open.push((client, stream));
    }
}

#[tokio::test]
async fn of_many_parked_connections_one_tries_and_all_follow_it() {
    const PARKED: usize = 60;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let home = Home::new(backend, false);
    let mut clients = Vec::new();
    for _ in 0..PARKED {
        clients.push(home.connect(1).await);
    }
    // A service that takes connections and hangs up, as one does that is not ready yet.
    let mut tried = 0;
    let unready = Instant::now() + Duration::from_secs(1);
    while let Ok(Ok((stream, _))) = tokio::time::timeout_at(unready.into(), listener.accept()).await {
        drop(stream);
        tried += 1;
    }
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(b"ready").await.unwrap();
            tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
        }
    });
    for client in &mut clients {
        reads(client, "ready").await;
    }
    // Each once, then the first of them again and again.
    assert!((PARKED..3 * PARKED).contains(&tried), "{PARKED} parked connections tried {tried} times");
}

#[tokio::test]
async fn connections_are_parked_during_a_move_and_then_passed_on() {
    let (old, old_count) = echo("old").await;
    let (new, _) = echo("new").await;
    let mut home = Home::new(old, false);
    home.radiators[0].lease(4, 0);
    home.table.services[0].active = None;
    home.tell();
    let mut parked = Vec::new();
    for node in [1, 2, 3] {
        parked.push(home.connect(node).await);
    }
    // Member 2 is to be active: its table first, then its lease, then the others' tables.
    home.table.services[0] = Route {
        epoch: 5,
        active: Some(2),
        backend: Some(new.ip()),
        ports: vec![PortRoute { published: home.published, target: new.port(), proxy_protocol: false }],
        ..home.table.services[0].clone()
    };
    home.table.save(home.radiators[1].dir.path()).unwrap();
    home.radiators[1].lease(5, u64::MAX);
    home.tell();
    for client in &mut parked {
        reads(client, "new").await;
    }
    assert_eq!(old_count.load(Ordering::SeqCst), 0, "nothing reached the old active without its lease");
}

#[tokio::test]
async fn a_service_that_hangs_up_before_its_greeting_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let home = Home::new(listener.local_addr().unwrap(), false);
    tokio::spawn(async move {
        for attempt in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            if attempt >= 5 {
                stream.write_all(b"220 ready").await.unwrap();
            }
        }
    });
    let mut clients = (home.connect(1).await, home.connect(2).await);
    reads(&mut clients.0, "220 ready").await;
    reads(&mut clients.1, "220 ready").await;
}

#[tokio::test]
async fn a_parked_connection_is_given_up_in_the_end() {
    let mut home = Home::new("127.0.0.1:9".parse().unwrap(), false);
    home.table.park_max_ms = 300;
    home.table.services[0].active = None;
    home.tell();
    home.radiators[1].listens(home.published).await;
    until("the new table", || std::fs::metadata(home.radiators[1].dir.path().join(ROUTES_FILE)).is_ok())
        .await;
    let mut client = home.connect(2).await;
    assert_eq!(rest(&mut client).await.0, b"", "closed with nothing said");
}

#[tokio::test]
async fn sessions_are_cut_when_the_lease_ends_and_served_anew_in_the_next_epoch() {
    let (backend, _) = echo("hello").await;
    let mut home = Home::new(backend, false);
    let mut clients = Vec::new();
    for node in [1, 2] {
        let mut client = home.connect(node).await;
        reads(&mut client, "hello").await;
        clients.push(client);
    }
    home.radiators[0].lease(4, 0);
    for client in &mut clients {
        assert_eq!(rest(client).await.0, b"", "nothing after the lease's end, not even a goodbye");
    }
    let mut parked = home.connect(1).await;
    home.table.services[0].epoch = 5;
    home.tell();
    home.radiators[0].lease(5, u64::MAX);
    reads(&mut parked, "hello").await;
}

#[tokio::test]
async fn a_lease_of_another_epoch_serves_nobody() {
    let (backend, count) = echo("hello").await;
    let mut home = Home::new(backend, false);
    home.radiators[0].lease(3, u64::MAX);
    let mut here = home.connect(1).await;
    let mut through = home.connect(2).await;
    let nothing = tokio::time::timeout(Duration::from_millis(300), here.read_u8()).await;
    assert!(nothing.is_err() && count.load(Ordering::SeqCst) == 0, "{nothing:?}");
    // Member 2 knows a newer epoch than member 1, whose lease is of the older one.
    home.radiators[0].lease(4, u64::MAX);
    reads(&mut here, "hello").await;
    reads(&mut through, "hello").await;
    home.table.services[0].epoch = 5;
    home.table.save(home.radiators[1].dir.path()).unwrap();
    assert_eq!(rest(&mut through).await.0, b"", "a newer epoch cuts what passed through under the older");
    let served = count.load(Ordering::SeqCst);
    let mut newer = home.connect(2).await;
    let nothing = tokio::time::timeout(Duration::from_millis(300), newer.read_u8()).await;
    assert!(nothing.is_err() && count.load(Ordering::SeqCst) == served, "refused by the older: {nothing:?}");
}

#[tokio::test]
async fn an_old_table_still_finds_the_active() {
    let (backend, _) = echo("hello").await;
    let mut home = Home::new(backend, false);
    home.table.services[0].active = Some(2);
    home.table.services[0].epoch = 3;
    home.table.save(home.radiators[2].dir.path()).unwrap();
    // Member 3's daemon is dead: its table names member 2, who refuses; member 1 is active.
    let mut client = home.connect(3).await;
    reads(&mut client, "hello").await;
}

#[tokio::test]
async fn the_table_opens_and_closes_ports_and_a_broken_one_changes_nothing() {
    let (backend, _) = echo("hello").await;
    let mut home = Home::new(backend, false);
    let (first, second) = (home.published, port());
    home.radiators[0].listens(first).await;
    home.table.services[0].ports[0].published = second;
    home.tell();
    home.published = second;
    reads(&mut home.connect(1).await, "hello").await;
    let old = TcpStream::connect((home.radiators[0].ip(), first)).await;
    assert_eq!(old.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    std::fs::write(home.radiators[0].dir.path().join(ROUTES_FILE), "{").unwrap();
    until("the fault being said", || home.radiators[0].status().table_fault.is_some()).await;
    reads(&mut home.connect(1).await, "hello").await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_said_and_had_once_it_is_free() {
    let (backend, _) = echo("hello").await;
    let mut home = Home::new(backend, false);
    home.published = port();
    let at = SocketAddr::new(home.radiators[0].ip(), home.published);
    let squatter = std::net::TcpListener::bind(at).unwrap();
    home.table.services[0].ports[0].published = home.published;
    home.tell();
    until("the collision being said", || home.radiators[0].status().failed.contains_key(&at)).await;
    drop(squatter);
    reads(&mut home.connect(1).await, "hello").await;
    assert!(home.radiators[0].status().failed.is_empty());
}

#[tokio::test]
async fn an_ingress_that_was_killed_comes_back_to_its_ports() {
    let (backend, _) = echo("hello").await;
    let mut home = Home::new(backend, false);
    let mut client = home.connect(1).await;
    reads(&mut client, "hello").await;
    home.radiators[0].task.take().unwrap().abort();
    assert_eq!(rest(&mut client).await.0, b"", "its sessions end with it");
    home.radiators[0].begin();
    reads(&mut home.connect(1).await, "hello").await;
}

#[tokio::test]
async fn strangers_and_garbage_at_the_tunnel_are_turned_away_and_harm_nobody() {
    let (backend, count) = echo("hello").await;
    let mut home = Home::new(backend, false);
    let tunnel = home.radiators[0].tunnel;
    reads(&mut home.connect(1).await, "hello").await;
    let served = count.load(Ordering::SeqCst);

    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 100_000]] {
        let mut stream = TcpStream::connect(tunnel).await.unwrap();
        // The other side may hang up in mid-write.
        let _ = stream.write_all(garbage).await;
        rest(&mut stream).await;
    }
    let stranger = Authority::new().link(2, &home.authority);
    let refused = async {
        let stream = TcpStream::connect(tunnel).await.unwrap();
        let connector = TlsConnector::from(stranger.client.clone());
        let mut tls = connector.connect(stranger.server_name.clone(), stream).await?;
        // TLS 1.3 tells a client of its refused certificate with the first read.
        tls.read_u8().await
    };
    assert!(soon("the refusal", refused).await.is_err());

    // Of the home's authority, but no member (any more); then a member that talks nonsense.
    for (node, frame) in [(9, &b"TMI1\x00\x00"[..]), (2, b"TMI1\xff\xff"), (2, b"nonsense")] {
        let link = home.authority.link(node, &home.authority);
        let stream = TcpStream::connect(tunnel).await.unwrap();
        let mut tls =
            TlsConnector::from(link.client.clone()).connect(link.server_name.clone(), stream).await.unwrap();
        let _ = tls.write_all(frame).await;
        let mut bytes = Vec::new();
        let _ = soon("being turned away", tls.read_to_end(&mut bytes)).await;
        assert_eq!(bytes, b"", "not even an answer for {node}");
    }
    assert_eq!(count.load(Ordering::SeqCst), served);

    // A member's certificate at another member's address is not that member.
    home.table.members.insert(3, home.radiators[1].tunnel);
    home.table.services[0].active = Some(3);
    home.republish();
    let mut parked = home.connect(1).await;
    let nothing = tokio::time::timeout(Duration::from_millis(300), parked.read_u8()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    home.table.services[0].active = Some(1);
    home.table.save(home.radiators[0].dir.path()).unwrap();
    reads(&mut parked, "hello").await;
}

#[tokio::test]
async fn no_more_connections_are_taken_than_allowed_and_the_next_waits_its_turn() {
    let (backend, _) = echo("hello").await;
    let mut home = Home::new(backend, false);
    let radiator = &mut home.radiators[0];
    radiator.task.take().unwrap().abort();
    let page: PathBuf = radiator.dir.path().join("leases");
    let mut options = IngressOptions::new(radiator.dir.path(), &page, radiator.link.clone(), radiator.tunnel);
    (options.listen, options.connections_max) = (vec![radiator.tunnel.ip()], 1);
    radiator.task = Some(tokio::spawn(run(options, radiator.ending.clone())));
    let mut first = home.connect(1).await;
    reads(&mut first, "hello").await;
    let mut second = home.connect(1).await;
    assert!(tokio::time::timeout(Duration::from_millis(200), second.read_u8()).await.is_err());
    drop(first);
    reads(&mut second, "hello").await;
}
