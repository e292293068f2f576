//! `takeover`: how long a client that knows only the floating address is without the service when a
//! plug is pulled, and what a planned move costs beyond the service's own stop and start.

mod plugs;

use super::figures::{Bound, Figure, quantile};
use super::{Ground, Group, setting};
use anyhow::Result;
use plugs::{GREETER, MAIL, Plugs, RECORD, Whose};

/// The group.
pub const GROUP: Group = Group {
    name: "takeover",
    about: "how long a client waits when a plug is pulled or a service moves",
    figures: &[
        "takeover_p50",
        "takeover_max",
        "takeover_leader_p50",
        "takeover_leader_max",
        "takeover_volume_p50",
        "mail_takeover_p50",
        "move_overhead_p50",
        "standby_loss_stall_max",
    ],
    run: measure,
};

/// Plugs pulled of each kind; `THERMIDOR_BENCH_RUNS` overrides it. Mail's are half as many.
const RUNS: usize = 20;

fn measure(ground: &Ground) -> Result<Vec<Figure>> {
    let runs = setting("THERMIDOR_BENCH_RUNS", RUNS)?;
    let mut home = Plugs::form("bench-takeover", &[GREETER, RECORD])?;
    let mut times = |whose: Whose, what: &str| -> Result<(Vec<f64>, Vec<f64>)> {
        let (mut greeter, mut record) = (Vec::new(), Vec::new());
        for run in 1..=runs {
            let gaps = home.pull_active(whose)?;
            ground.say(format!(
                "{what}, plug {run} of {runs}: {:.2} s, with a volume {:.2} s",
                gaps[0], gaps[1]
            ));
            greeter.push(gaps[0]);
            record.push(gaps[1]);
        }
        Ok((greeter, record))
    };
    let (active, mut volume) = times(Whose::Active, "the active")?;
    let (leader, volume_leader) = times(Whose::ActiveAndLeader, "active, leader and holder")?;
    volume.extend(volume_leader);
    let own = home.own_stop_and_start(runs)?;
    let mut moves = Vec::new();
    for run in 1..=runs {
        let gap = home.move_greeter()?;
        ground
            .say(format!("move {run} of {runs}: {gap:.2} s, of which its own {:.2} s", quantile(&own, 0.5)));
        moves.push((gap - quantile(&own, 0.5)).max(0.0));
    }
    let mut stalls = Vec::new();
    for run in 1..=runs {
        let stall = home.pull_standby(run % 2 == 0)?;
        ground.say(format!("standby {run} of {runs}: {stall:.2} s"));
        stalls.push(stall);
    }
    drop(home);
    let mail = mail(ground, runs.div_ceil(2))?;

    let middle = |name, samples: &[f64]| Figure::new(name, "s", quantile(samples, 0.5), samples.to_vec());
    let most = |name, samples: &[f64]| Figure::new(name, "s", quantile(samples, 1.0), samples.to_vec());
    Ok(vec![
        middle("takeover_p50", &active).aimed_at(Bound::AtMost(1.5)).required(Bound::AtMost(2.0)),
        most("takeover_max", &active).aimed_at(Bound::AtMost(3.0)).required(Bound::AtMost(3.5)),
        middle("takeover_leader_p50", &leader).aimed_at(Bound::AtMost(1.5)).required(Bound::AtMost(2.0)),
        most("takeover_leader_max", &leader).aimed_at(Bound::AtMost(3.0)).required(Bound::AtMost(3.5)),
        middle("takeover_volume_p50", &volume),
        middle("mail_takeover_p50", &mail),
        middle("move_overhead_p50", &moves).aimed_at(Bound::AtMost(0.3)).required(Bound::AtMost(0.5)),
        most("standby_loss_stall_max", &stalls).required(Bound::AtMost(1.5)),
    ])
}

fn mail(ground: &Ground, runs: usize) -> Result<Vec<f64>> {
    let mut home = Plugs::form("bench-mail", &[MAIL])?;
    let mut times = Vec::new();
    for run in 1..=runs {
        let whose = if run % 2 == 0 { Whose::ActiveAndLeader } else { Whose::Active };
        let gaps = home.pull_active(whose)?;
        ground.say(format!("mail, plug {run} of {runs}: {:.2} s", gaps[0]));
        times.push(gaps[0]);
    }
    Ok(times)
}
