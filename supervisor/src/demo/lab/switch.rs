//! The switch between the lab's machines: a bridge in a network namespace of its own. Cables
//! are cut here, so a cut is one for ARP and everything else too, and neither end can see it.

use super::cgroup::Cgroup;
use super::command::{LabError, output};
use super::machine::{Machine, Own};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The lab's network, the same in every lab: no lab sees another's.
pub const NETWORK: [u8; 3] = [10, 77, 0];
/// Bits of the network's prefix.
pub const PREFIX: u8 = 24;

/// A socket of the switch: the last byte of the address of what is plugged in there.
pub type Port = u8;

/// The address of what is plugged in at a port.
pub fn address(port: Port) -> Ipv4Addr {
    Ipv4Addr::new(NETWORK[0], NETWORK[1], NETWORK[2], port)
}

/// What the switch does not pass on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rules {
    /// Cut ways, from and to.
    cuts: BTreeSet<(Port, Port)>,
    /// Ports cut from everything.
    apart: BTreeSet<Port>,
    /// How many of a hundred frames that come from a port are lost.
    lossy: BTreeMap<Port, u8>,
}

impl Rules {
    /// The rules as one nft transaction that replaces the rules before.
    fn script(&self) -> String {
        let mut lines = vec![
            "table bridge lab".to_owned(),
            "delete table bridge lab".to_owned(),
            "table bridge lab {".to_owned(),
            "chain forward {".to_owned(),
            "type filter hook forward priority 0; policy accept;".to_owned(),
        ];
        for port in &self.apart {
            lines.push(format!("iifname \"p{port}\" drop"));
            lines.push(format!("oifname \"p{port}\" drop"));
        }
        for (from, to) in &self.cuts {
            lines.push(format!("iifname \"p{from}\" oifname \"p{to}\" drop"));
        }
        for (port, percent) in &self.lossy {
            // nft refuses a comparison that is always true.
            let chance =
                if *percent < 100 { format!("numgen random mod 100 < {percent} ") } else { String::new() };
            lines.push(format!("iifname \"p{port}\" {chance}drop"));
        }
        lines.extend(["}".to_owned(), "}".to_owned()]);
        lines.join("\n") + "\n"
    }
}

/// The switch.
#[derive(Debug)]
pub struct Switch {
    hub: Mutex<Option<Machine>>,
    rules: Mutex<Rules>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Switch {
    /// Starts it, with nothing plugged in.
    pub fn start(group: Cgroup) -> Result<Self, LabError> {
        let hub = Machine::start(group, Own::Network)?;
        hub.script(
            "ip link add br0 type bridge forward_delay 0 mcast_snooping 0\n\
             ip link set br0 up",
        )?;
        let switch = Self { hub: Mutex::new(Some(hub)), rules: Mutex::default() };
        switch.enforce(&Rules::default())?;
        Ok(switch)
    }

    /// Plugs a machine in: it gets `eth0` with the port's address and, always, the same
    /// hardware address, as a computer has one.
    pub fn plug(&self, port: Port, machine: &Machine) -> Result<(), LabError> {
        let pid = machine.pid();
        self.on_hub(&format!(
            "ip link del p{port} 2>/dev/null || :\n\
             ip link add p{port} type veth peer name eth0 address 02:00:0a:4d:00:{port:02x} netns {pid}\n\
             ip link set p{port} master br0 up"
        ))?;
        machine.script(&format!("ip addr add {}/{PREFIX} dev eth0\nip link set eth0 up", address(port)))?;
        Ok(())
    }

    /// Takes a port's link down, at once.
    pub fn unplug(&self, port: Port) -> Result<(), LabError> {
        self.on_hub(&format!("ip link set p{port} down"))
    }

    /// Puts a port's link up again.
    pub fn replug(&self, port: Port) -> Result<(), LabError> {
        self.on_hub(&format!("ip link set p{port} up"))
    }

    /// Cuts one way: nothing sent by `from` reaches `to`.
    pub fn cut(&self, from: Port, to: Port) -> Result<(), LabError> {
        self.change(|rules| {
            rules.cuts.insert((from, to));
        })
    }

    /// Cuts a port from everything, both ways; the link stays up.
    pub fn cut_all(&self, port: Port) -> Result<(), LabError> {
        self.change(|rules| {
            rules.apart.insert(port);
        })
    }

    /// Loses that many of a hundred frames sent by `from`; 0 loses none.
    pub fn drop_percent(&self, from: Port, percent: u8) -> Result<(), LabError> {
        self.change(|rules| {
            rules.lossy.insert(from, percent.min(100));
            rules.lossy.retain(|_, percent| *percent > 0);
        })
    }

    /// Mends every cable.
    pub fn heal(&self) -> Result<(), LabError> {
        self.change(|rules| *rules = Rules::default())
    }

    fn change(&self, edit: impl FnOnce(&mut Rules)) -> Result<(), LabError> {
        let mut rules = locked(&self.rules);
        let mut next = rules.clone();
        edit(&mut next);
        self.enforce(&next)?;
        *rules = next;
        Ok(())
    }

    fn enforce(&self, rules: &Rules) -> Result<(), LabError> {
        let guard = locked(&self.hub);
        let hub = guard.as_ref().ok_or_else(|| LabError::NoPower("the switch".into()))?;
        let mut command = hub.command("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let command_line = super::command::line(&command);
        let start = |source| LabError::Start { command: command_line.clone(), source };
        let mut child = command.spawn().map_err(start)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(rules.script().as_bytes()).map_err(start)?;
        }
        let said = child.wait_with_output().map_err(start)?;
        if said.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&said.stderr).trim().to_owned();
        Err(LabError::Failed { command: command_line, status: said.status, said: text })
    }

    fn on_hub(&self, script: &str) -> Result<(), LabError> {
        let guard = locked(&self.hub);
        let hub = guard.as_ref().ok_or_else(|| LabError::NoPower("the switch".into()))?;
        output(hub.command("sh").args(["-ec", script])).map(|_| ())
    }

    /// Ends it.
    pub fn end(&self) -> Result<(), LabError> {
        locked(&self.hub).take().map_or(Ok(()), Machine::end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_replace_those_before_in_one_transaction() {
        let mut rules = Rules::default();
        let nothing = rules.script();
        assert!(nothing.starts_with("table bridge lab\ndelete table bridge lab\n"));
        assert!(!nothing.contains("drop"));
        rules.cuts.insert((11, 12));
        rules.apart.insert(13);
        rules.lossy.insert(12, 10);
        rules.lossy.insert(14, 100);
        let script = rules.script();
        let lines: Vec<&str> = script.lines().filter(|l| l.ends_with("drop")).collect();
        assert_eq!(
            lines,
            [
                "iifname \"p13\" drop",
                "oifname \"p13\" drop",
                "iifname \"p11\" oifname \"p12\" drop",
                "iifname \"p12\" numgen random mod 100 < 10 drop",
                "iifname \"p14\" drop",
            ]
        );
    }
}
