//! The room against BOPTEST's test case 1: one capacity of 1 MJ/K behind 0.01 K/W, outdoors
//! 20 °C + 10 K · sin over a day, a proportional controller of 2 kW/K below 20 and above 23 °C
//! that acts every 300 s, 48 hours, efficiency 0.99, 10 m². See data/README.md for the source.

use thermidor_model::heat::room::Room;

const STEP_S: f64 = 300.0;
const PARTS: usize = 300;

struct Run {
    /// Temperature at the start of every step, °C.
    temperature_c: Vec<f64>,
    power_w: Vec<f64>,
    discomfort_kh: f64,
}

fn run() -> Run {
    let mut room = Room { temperature_c: 20.0, loss_w_per_k: 100.0, capacity_j_per_k: 1e6 };
    let mut run = Run { temperature_c: vec![], power_w: vec![], discomfort_kh: 0.0 };
    let steps = (48.0 * 3600.0 / STEP_S) as usize;
    let outside = |c: f64| (20.0 - c).max(0.0) + (c - 23.0).max(0.0);
    for step in 0..steps {
        let at_c = room.temperature_c;
        let power = 2000.0 * ((20.0 - at_c).max(0.0) - (at_c - 23.0).max(0.0));
        run.temperature_c.push(at_c);
        run.power_w.push(power);
        let part_s = STEP_S / PARTS as f64;
        for part in 0..PARTS {
            let middle_s = step as f64 * STEP_S + (part as f64 + 0.5) * part_s;
            let outdoor_c = 20.0 + 10.0 * (middle_s / 86_400.0 * std::f64::consts::TAU).sin();
            let before = outside(room.temperature_c);
            room.step(power, outdoor_c, part_s);
            run.discomfort_kh += (before + outside(room.temperature_c)) / 2.0 * part_s / 3600.0;
        }
    }
    run
}

fn near(ours: f64, golden: f64, tolerance: f64) {
    assert!((ours / golden - 1.0).abs() < tolerance, "{ours} instead of {golden}");
}

#[test]
fn the_figures_are_boptests() {
    let run = run();
    let energy: f64 = run.power_w.iter().map(|w| w.abs() * STEP_S / 3.6e6 / 0.99 / 10.0).sum();
    near(energy, 2.147404077, 1e-4);
    near(run.discomfort_kh, 10.632756858, 1e-3);
    let peak =
        run.power_w.windows(3).map(|w| w.iter().map(|w| w.abs()).sum::<f64>() / 3.0).fold(0.0, f64::max);
    near(peak / 0.99 / 10.0 / 1000.0, 0.0961571035, 1e-4);
}

#[test]
fn the_trajectory_is_boptests() {
    let run = run();
    let csv = include_str!("data/boptest_testcase1_results.csv");
    let mut compared = 0;
    for line in csv.lines().skip(1) {
        let fields: Vec<f64> = line.split(',').map(|f| f.parse().unwrap()).collect();
        let (at_s, golden_c) = (fields[0], fields[2 + 1] - 273.15);
        let place = at_s / STEP_S;
        let index = place.floor() as usize;
        let Some(next) = run.temperature_c.get(index + 1) else { continue };
        let ours = run.temperature_c[index] + (next - run.temperature_c[index]) * place.fract();
        assert!((ours - golden_c).abs() < 0.01, "{at_s} s: {ours} °C instead of {golden_c}");
        compared += 1;
    }
    assert!(compared > 490, "{compared}");
}
