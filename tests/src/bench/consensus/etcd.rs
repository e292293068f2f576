//! The anchor: etcd from Debian, three members on loopback, mutual TLS between them and towards
//! clients, all else as it comes.

use super::etcd_client::EtcdDoor;
use super::home::{free_port, wait_for};
use crate::bench::processes::Process;
use anyhow::{Context, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

/// How many members.
const MEMBERS: usize = 3;

/// An etcd cluster.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    tls: Tls,
}

#[derive(Debug)]
struct Member {
    client: SocketAddr,
    process: Process,
}

/// One authority, and one certificate that servers, peers and clients show.
#[derive(Debug)]
struct Tls {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Tls {
    fn make(dir: &Path) -> Result<Self> {
        let authority_key = KeyPair::generate()?;
        let mut authority = CertificateParams::new(Vec::<String>::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        authority.distinguished_name.push(DnType::CommonName, "bench authority");
        let authority_pem = authority.self_signed(&authority_key)?.pem();
        let issuer = Issuer::new(authority, authority_key);

        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.distinguished_name.push(DnType::CommonName, "bench");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let pem = params.signed_by(&key, &issuer)?.pem();

        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        Ok(Self {
            authority: write("authority.pem", &authority_pem)?,
            certificate: write("member.pem", &pem)?,
            key: write("member.key", &key.serialize_pem())?,
        })
    }

    /// A client's settings, speaking HTTP/2.
    fn client(&self) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.authority)?)?;
        let chain = vec![CertificateDer::from_pem_file(&self.certificate)?];
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&self.key)?)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

/// What `etcdctl endpoint status` tells of a member.
#[derive(Deserialize)]
struct EndpointStatus {
    #[serde(rename = "Endpoint")]
    endpoint: String,
    #[serde(rename = "Status")]
    status: StatusOf,
}

#[derive(Deserialize)]
struct StatusOf {
    header: Header,
    leader: u64,
    version: String,
}

#[derive(Deserialize)]
struct Header {
    member_id: u64,
}

impl Etcd {
    /// Starts a cluster below that folder and waits until it is healthy.
    pub fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let tls = Tls::make(dir)?;
        let ports: Vec<(SocketAddr, SocketAddr)> =
            (0..MEMBERS).map(|_| Ok((free_port()?, free_port()?))).collect::<Result<_>>()?;
        let cluster: Vec<String> =
            ports.iter().enumerate().map(|(n, (_, peer))| format!("m{n}=https://{peer}")).collect();
        let start = |(n, (client, peer)): (usize, &(SocketAddr, SocketAddr))| -> Result<Member> {
            let process = start(dir, n, *client, *peer, &cluster.join(","), &tls)?;
            Ok(Member { client: *client, process })
        };
        let members = ports.iter().enumerate().map(start).collect::<Result<Vec<_>>>()?;
        let mut etcd = Self { members, tls };
        wait_for("etcd to be healthy", || {
            etcd.all_run()?;
            Ok(etcd.control(&["endpoint", "health"]).ok())
        })?;
        Ok(etcd)
    }

    /// An error where a member has ended by itself.
    pub fn all_run(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(|member| member.process.runs())
    }

    /// Runs `etcdctl` against all members.
    fn control(&self, args: &[&str]) -> Result<String> {
        let endpoints: Vec<String> = self.members.iter().map(|m| format!("https://{}", m.client)).collect();
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(endpoints.join(","));
        command.arg("--cacert").arg(&self.tls.authority).arg("--cert").arg(&self.tls.certificate);
        command.arg("--key").arg(&self.tls.key).args(args);
        let said = command.output().context("start etcdctl")?;
        let text = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        ensure!(said.status.success(), "etcdctl {}: {text}", args.join(" "));
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    }

    /// The leader's address for clients, another member's, and the version.
    fn roles(&self) -> Result<(SocketAddr, SocketAddr, String)> {
        let said = self.control(&["endpoint", "status", "--write-out=json"])?;
        let all: Vec<EndpointStatus> = serde_json::from_str(&said).context("read etcd's status")?;
        let leads = |s: &&EndpointStatus| s.status.header.member_id == s.status.leader;
        let address = |s: &EndpointStatus| -> Result<SocketAddr> {
            s.endpoint.trim_start_matches("https://").parse().context("an endpoint's address")
        };
        let leader = all.iter().find(leads).context("etcd has no leader")?;
        let other = all.iter().find(|s| !leads(s)).context("etcd has one member")?;
        Ok((address(leader)?, address(other)?, leader.status.version.clone()))
    }

    /// Its version, `3.4.23`.
    pub fn version(&self) -> Result<String> {
        Ok(self.roles()?.2)
    }

    /// So many connections to the leader, each with TLS of its own: puts need no hop, as ours need none.
    pub async fn doors(&self, count: usize) -> Result<Vec<Arc<EtcdDoor>>> {
        let (leader, _, _) = self.roles()?;
        let tls = self.tls.client()?;
        let mut doors = Vec::new();
        for _ in 0..count {
            doors.push(Arc::new(EtcdDoor::open(leader, tls.clone()).await?));
        }
        Ok(doors)
    }

    /// A connection to a member that does not lead.
    pub async fn other(&self) -> Result<EtcdDoor> {
        EtcdDoor::open(self.roles()?.1, self.tls.client()?).await
    }
}

fn start(
    dir: &Path,
    n: usize,
    client: SocketAddr,
    peer: SocketAddr,
    cluster: &str,
    tls: &Tls,
) -> Result<Process> {
    let name = format!("m{n}");
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let url = |address: SocketAddr| format!("https://{address}");
    let options = [
        ("name", name.clone()),
        ("data-dir", path(&dir.join(&name))),
        ("logger", "zap".into()),
        ("log-level", "warn".into()),
        ("listen-client-urls", url(client)),
        ("advertise-client-urls", url(client)),
        ("listen-peer-urls", url(peer)),
        ("initial-advertise-peer-urls", url(peer)),
        ("initial-cluster", cluster.into()),
        ("initial-cluster-token", "bench".into()),
        ("client-cert-auth", "true".into()),
        ("trusted-ca-file", path(&tls.authority)),
        ("cert-file", path(&tls.certificate)),
        ("key-file", path(&tls.key)),
        ("peer-client-cert-auth", "true".into()),
        ("peer-trusted-ca-file", path(&tls.authority)),
        ("peer-cert-file", path(&tls.certificate)),
        ("peer-key-file", path(&tls.key)),
    ];
    let args: Vec<String> = options.into_iter().map(|(name, value)| format!("--{name}={value}")).collect();
    let args = args.iter().map(String::as_str);
    Process::start(Path::new("etcd"), args, &[], &dir.join(format!("{name}.log")))
}
