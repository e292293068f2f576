//! Sensors that answer, err, dawdle and go stale.

use super::power::{PowerMeter, Rapl, cpu_watts, service_watts};
use super::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::SystemTime;
use thermidor_model::ServiceName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn words(error: SensorError) -> String {
    error.to_string()
}

fn file_sensor(path: &Path, stale_s: u64) -> Sensor {
    let spec = SensorSpec::File { path: path.display().to_string(), stale_s };
    Sensor::new(&spec, Path::new("/"))
}

#[tokio::test]
async fn a_file_is_read_until_it_is_stale() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("salon");
    let mut sensor = file_sensor(&path, 60);
    assert!(words(sensor.read(0.0).await.unwrap_err()).contains("can't be read"));
    fs::write(&path, "19.5 C\n").unwrap();
    assert_eq!(sensor.read(0.0).await.unwrap().celsius, 19.5);
    let old = SystemTime::now() - Duration::from_secs(90);
    fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    let said = words(sensor.read(0.0).await.unwrap_err());
    assert!(said.contains("last measured 9") && said.ends_with("counts for 60 s"), "{said}");
    let later = SystemTime::now() + Duration::from_secs(3600);
    fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    assert_eq!(sensor.read(0.0).await.unwrap().age, Duration::ZERO);
}

#[tokio::test]
async fn garbage_in_a_file_is_no_temperature_but_the_last_reading_serves_while_fresh() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("salon");
    for (text, why) in
        [("", "empty"), ("warm", "`warm` is no number"), ("nan", "can't be"), ("900", "900 °C can't be")]
    {
        fs::write(&path, text).unwrap();
        let said = words(file_sensor(&path, 60).read(0.0).await.unwrap_err());
        assert!(said.contains(why), "{said}");
    }
    fs::write(&path, "1".repeat(ANSWER_MAX + 1)).unwrap();
    assert!(words(file_sensor(&path, 60).read(0.0).await.unwrap_err()).contains("more than"));
    let mut sensor = file_sensor(&path, 60);
    fs::write(&path, "20.0").unwrap();
    sensor.read(0.0).await.unwrap();
    fs::write(&path, "oops").unwrap();
    assert_eq!(sensor.read(0.0).await.unwrap().celsius, 20.0);
    let mut strict = file_sensor(&path, 0);
    strict.last = Some((20.0, Instant::now() - Duration::from_secs(1)));
    assert!(words(strict.read(0.0).await.unwrap_err()).contains("`oops` is no number"));
}

fn command_sensor(argv: &[&str]) -> Sensor {
    let argv = argv.iter().map(|a| (*a).to_string()).collect();
    Sensor::new(&SensorSpec::Command { argv, stale_s: 60 }, Path::new("/"))
}

#[tokio::test]
async fn a_command_prints_the_number_or_says_what_is_wrong() {
    assert_eq!(command_sensor(&["echo", "21.25"]).read(0.0).await.unwrap().celsius, 21.25);
    for (argv, why) in [
        (&["/no/such/program"][..], "can't be run"),
        (&["sh", "-c", "echo no sensor >&2; exit 3"], "exit status: 3: no sensor"),
        (&["echo", "tepid"], "`tepid` is no number"),
        (&["head", "-c", "100000", "/dev/zero"], "more than"),
        (&[], "names no program"),
    ] {
        let said = words(command_sensor(argv).read(0.0).await.unwrap_err());
        assert!(said.contains(why), "{said} lacks {why}");
    }
}

#[tokio::test]
async fn a_command_that_hangs_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let line = format!("echo $$ > {}; exec sleep 1000", pid_file.display());
    let said = words(command_sensor(&["sh", "-c", &line]).read(0.0).await.unwrap_err());
    assert!(said.contains("no answer within 5 s"), "{said}");
    let pid: u32 = fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    let stat = PathBuf::from(format!("/proc/{pid}/stat"));
    let lives = || fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z "));
    for _ in 0..100 {
        if !lives() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{pid} goes on");
}

/// Answers every request with the same bytes; without any it stays silent.
async fn server(answer: Option<String>) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/state", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let mut silent = vec![];
        while let Ok((mut stream, _)) = listener.accept().await {
            let Some(answer) = &answer else {
                silent.push(stream);
                continue;
            };
            let mut request = [0; 4096];
            let _read = stream.read(&mut request).await;
            let _sent = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, task)
}

fn http_answer(status: &str, body: &str) -> Option<String> {
    let length = body.len();
    Some(format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"))
}

async fn http_read(answer: Option<String>, path: &str) -> Result<Reading, SensorError> {
    let (url, task) = server(answer).await;
    let spec = SensorSpec::Http { url, path: path.into(), stale_s: 60 };
    let reading = Sensor::new(&spec, Path::new("/")).read(0.0).await;
    task.abort();
    reading
}

#[tokio::test]
async fn a_url_gives_a_field_of_its_json() {
    let body = r#"{"room": [{"temperature": 18.5, "set": "20.5"}], "on": true}"#;
    let read = |path: &'static str| http_read(http_answer("200 OK", body), path);
    assert_eq!(read("room.0.temperature").await.unwrap().celsius, 18.5);
    assert_eq!(read("room.0.set").await.unwrap().celsius, 20.5);
    assert!(words(read("room.1.set").await.unwrap_err()).contains("no `1` of `room.1.set`"));
    assert!(words(read("on").await.unwrap_err()).contains("`on` is no number"));
    let bare = http_read(http_answer("200 OK", "17.0\n"), "").await.unwrap();
    assert_eq!(bare.celsius, 17.0);
}

#[tokio::test]
async fn a_url_that_fails_says_so() {
    let said = words(http_read(http_answer("500 Oops", "18.0"), "").await.unwrap_err());
    assert!(said.contains("can't be read"), "{said}");
    let said = words(http_read(http_answer("200 OK", "<html>"), "a").await.unwrap_err());
    assert!(said.contains("no JSON"), "{said}");
    let said = words(http_read(http_answer("200 OK", &"9".repeat(ANSWER_MAX + 1)), "").await.unwrap_err());
    assert!(said.contains("more than"), "{said}");
    let said = words(http_read(Some("garbage\r\n\r\n".into()), "").await.unwrap_err());
    assert!(said.contains("can't be read"), "{said}");
    let said = words(http_read(None, "").await.unwrap_err());
    assert!(said.contains("no answer within 5 s"), "{said}");
}

fn room(dir: &Path, speed: f64) -> SimulatedRoom {
    let room =
        thermidor_model::heat::room::Room { temperature_c: 15.0, loss_w_per_k: 0.0, capacity_j_per_k: 2.4e6 };
    SimulatedRoom::new(room, 15.0, speed, dir)
}

#[test]
fn a_simulated_room_gains_the_measured_watts_and_nothing_without() {
    let dir = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let mut warmed = room(dir.path(), 60.0);
    let mut left = room(dir.path(), 60.0);
    for second in 0..=120 {
        warmed.pass(begun + Duration::from_secs(second), 87.0);
        left.pass(begun + Duration::from_secs(second), 0.0);
    }
    let end = begun + Duration::from_secs(120);
    let gain = warmed.pass(end, 87.0) - 15.0;
    let expected = 87.0 * 120.0 * 60.0 / 2.4e6;
    assert!((gain / expected - 1.0).abs() < 0.1, "{gain} instead of {expected}");
    assert_eq!(left.pass(end, 0.0), 15.0);
    assert_eq!(left.pass(end + Duration::from_secs(9), f64::NAN), 15.0, "nonsense is no heat");
}

#[tokio::test]
async fn a_control_file_changes_the_weather_and_the_target_of_a_simulated_room() {
    let dir = tempfile::tempdir().unwrap();
    let spec = SensorSpec::Simulated {
        start_c: 20.0,
        loss_w_per_k: 18.0,
        capacity_kj_per_k: 2400.0,
        outdoor_c: 5.0,
        speed: 1.0,
    };
    let mut sensor = Sensor::new(&spec, dir.path());
    assert_eq!(sensor.read(0.0).await.unwrap(), Reading { celsius: 20.0, age: Duration::ZERO });
    assert_eq!(sensor.simulated().unwrap().outdoor_c(), 5.0);
    let control = Control { outdoor_c: Some(-10.0), target_c: Some(22.0) };
    let path = dir.path().join(CONTROL_FILE);
    fs::write(&path, serde_json::to_vec(&control).unwrap()).unwrap();
    sensor.read(0.0).await.unwrap();
    let seen = |s: &Sensor| (s.simulated().unwrap().outdoor_c(), s.simulated().unwrap().target_c());
    assert_eq!(seen(&sensor), (-10.0, Some(22.0)));
    fs::write(&path, "{\"outdoor_c\": -1").unwrap();
    sensor.read(0.0).await.unwrap();
    assert_eq!(seen(&sensor), (-10.0, Some(22.0)), "half a file changes nothing");
    fs::remove_file(&path).unwrap();
    sensor.read(0.0).await.unwrap();
    assert_eq!(seen(&sensor), (5.0, None));
}

/// Full power of the radiators whose meters are tested, W.
const DECLARED_W: f64 = 200.0;

fn zone(sysfs: &Path, name: &str, uj: u64) {
    let dir = sysfs.join("class/powercap").join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("energy_uj"), format!("{uj}\n")).unwrap();
    fs::write(dir.join("max_energy_range_uj"), "1000000000\n").unwrap();
}

fn stat(procfs: &Path, busy: u64, idle: u64) {
    fs::write(procfs.join("stat"), format!("cpu  {busy} 0 0 {idle} 0 0 0 7 0 0\ncpu0 1 2 3\n")).unwrap();
}

#[test]
fn energy_counters_are_summed_over_packages_and_wrap() {
    let dir = tempfile::tempdir().unwrap();
    zone(dir.path(), "intel-rapl:0", 999_000_000);
    zone(dir.path(), "intel-rapl:0:0", 5);
    zone(dir.path(), "intel-rapl:1", 0);
    stat(dir.path(), 100, 900);
    let mut meter = PowerMeter::new(dir.path(), dir.path());
    let begun = Instant::now();
    assert_eq!(meter.sample(DECLARED_W, begun).unwrap(), None);
    zone(dir.path(), "intel-rapl:0", 19_000_000);
    zone(dir.path(), "intel-rapl:1", 10_000_000);
    stat(dir.path(), 300, 1000);
    let power = meter.sample(DECLARED_W, begun + Duration::from_secs(2)).unwrap().unwrap();
    assert!((power.watts - 15.0).abs() < 1e-6 && power.measured, "{power:?}");
    assert_eq!(power.busy, Duration::from_secs(2));
    fs::write(dir.path().join("class/powercap/intel-rapl:1/energy_uj"), "x").unwrap();
    let said = meter.sample(DECLARED_W, begun + Duration::from_secs(3)).unwrap_err().to_string();
    assert!(said.ends_with("holds no number: `x`"), "{said}");
}

#[test]
fn without_counters_busy_cores_times_declared_power() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Rapl::find(dir.path()).is_none());
    let mut meter = PowerMeter::new(dir.path(), dir.path());
    let begun = Instant::now();
    assert!(meter.sample(DECLARED_W, begun).unwrap_err().to_string().ends_with("can't be read"));
    stat(dir.path(), 100, 100);
    assert_eq!(meter.sample(DECLARED_W, begun).unwrap(), None);
    stat(dir.path(), 125, 175);
    let power = meter.sample(DECLARED_W, begun + Duration::from_secs(1)).unwrap().unwrap();
    assert_eq!((power.watts, power.measured), (50.0, false));
    fs::write(dir.path().join("stat"), "cpu  a b\n").unwrap();
    assert!(meter.sample(DECLARED_W, begun + Duration::from_secs(2)).is_err());
}

#[test]
fn a_service_has_the_watts_of_its_share_of_the_busy_time() {
    let name = |n: &str| ServiceName::new(n).unwrap();
    let cpu: BTreeMap<_, _> =
        [(name("mail"), Duration::from_millis(500)), (name("search"), Duration::from_secs(1))].into();
    let watts = service_watts(80.0, Duration::from_secs(4), &cpu);
    assert_eq!((watts[&name("mail")], watts[&name("search")]), (10.0, 20.0));
    let watts = service_watts(80.0, Duration::ZERO, &cpu);
    assert!((watts.values().sum::<f64>() - 80.0).abs() < 1e-9, "never more than there is");
    let idle = [(name("mail"), Duration::ZERO)].into();
    assert_eq!(service_watts(80.0, Duration::ZERO, &idle)[&name("mail")], 0.0);
    assert_eq!(cpu_watts(200.0, Duration::from_secs(1), Duration::from_secs(2), 2), 50.0);
    assert_eq!(cpu_watts(200.0, Duration::from_secs(9), Duration::ZERO, 2), 0.0);
    assert_eq!(cpu_watts(200.0, Duration::from_secs(9), Duration::from_secs(1), 2), 200.0);
}

#[test]
fn a_machine_is_measured_with_its_services_and_its_memory() {
    let dir = tempfile::tempdir().unwrap();
    let mail = ServiceName::new("mail").unwrap();
    let cpu = |ms| BTreeMap::from([(mail.clone(), Duration::from_millis(ms))]);
    stat(dir.path(), 100, 100);
    fs::write(dir.path().join("meminfo"), "MemTotal: 9 kB\nMemAvailable:    2048 kB\n").unwrap();
    let begun = Instant::now();
    let mut meter = PowerMeter::new(dir.path(), dir.path());
    let first = meter.measure_at(begun, DECLARED_W, &cpu(1000));
    assert_eq!((first.power_w, first.memory_free_bytes, first.trouble), (0.0, 2 << 20, None));
    stat(dir.path(), 200, 200);
    let next = meter.measure_at(begun + Duration::from_secs(1), DECLARED_W, &cpu(1500));
    assert_eq!((next.power_w, next.service_w[&mail]), (100.0, 50.0));
    fs::remove_file(dir.path().join("stat")).unwrap();
    let lost = meter.measure_at(begun + Duration::from_secs(2), DECLARED_W, &cpu(2000));
    assert!(lost.power_w == 0.0 && lost.trouble.unwrap().contains("stat can't be read"));
}

#[test]
fn on_a_shared_machine_only_the_own_services_count() {
    let dir = tempfile::tempdir().unwrap();
    let mail = ServiceName::new("mail").unwrap();
    let cpu = |ms| BTreeMap::from([(mail.clone(), Duration::from_millis(ms))]);
    stat(dir.path(), 100, 100);
    let begun = Instant::now();
    let mut meter = PowerMeter::new(dir.path(), dir.path()).shared(true);
    meter.measure_at(begun, DECLARED_W, &cpu(1000));
    stat(dir.path(), 300, 100);
    let own = meter.measure_at(begun + Duration::from_secs(1), DECLARED_W, &cpu(1500));
    let expected = DECLARED_W * 0.5 / f64::from(own.cores);
    assert!((own.power_w - expected).abs() < 1e-9 && own.power_w == own.service_w[&mail], "{own:?}");
    let none = meter.measure_at(begun + Duration::from_secs(2), DECLARED_W, &BTreeMap::new());
    assert_eq!((none.power_w, none.service_w.len()), (0.0, 0));
    let restarted = meter.measure_at(begun + Duration::from_secs(3), DECLARED_W, &cpu(10));
    assert_eq!(restarted.power_w, 0.0, "a container's first look is no share");
}
