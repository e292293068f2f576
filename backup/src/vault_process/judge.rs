//! Who a caller is and what it may do, by its key and the generation it says. Decides only.

use super::config::VaultConfig;
use crate::line::TransportKey;
use crate::vault::Caller;
use thermidor_model::name::HomeName;

/// The generation that a home says which has nothing left but its kit: it may read.
pub const COMES_BACK: u64 = 0;

/// What a caller may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The friend it is.
    pub friend: HomeName,
    /// The generation of it that is believed.
    pub believed: u64,
    /// It says a higher one: it may only read until a person has confirmed that.
    pub read_only: bool,
}

impl Judged {
    /// As the vault takes it.
    pub fn caller(&self) -> Caller {
        let friend = self.friend.clone();
        if self.read_only { Caller::ProvedToRead(friend) } else { Caller::Proved(friend) }
    }
}

/// Who holds that key and says that generation; `Err` is what it is told instead of being let in.
pub fn judge(config: &VaultConfig, key: TransportKey, generation: u64) -> Result<Judged, String> {
    let found = config.friends.iter().find(|(_, friend)| friend.transport == key);
    let Some((friend, agreed)) = found else {
        if config.transport().is_some_and(|own| own.public() == key) {
            return Err(format!("this is the vault of {} itself: it is open to its friends", config.home));
        }
        return Err(format!("{} lends this home nothing (any more)", config.home));
    };
    // A home that comes back from its kit knows no generation until it has read its backups.
    let unknown = generation == COMES_BACK;
    if generation < agreed.generation && !unknown {
        return Err(format!(
            "this home was recovered or rescued: generation {} is believed here, and this is generation {generation}",
            agreed.generation
        ));
    }
    let (friend, believed) = (friend.clone(), agreed.generation);
    Ok(Judged { friend, believed, read_only: generation > believed || unknown })
}

/// The friend that comes as an earlier generation of itself than is believed: it is told of the later one.
pub fn outlived(config: &VaultConfig, key: TransportKey, generation: u64) -> Option<HomeName> {
    let (friend, agreed) = config.friends.iter().find(|(_, friend)| friend.transport == key)?;
    (generation < agreed.generation && generation != COMES_BACK).then(|| friend.clone())
}

#[cfg(test)]
mod tests {
    use super::super::config::FriendConfig;
    use super::*;
    use crate::line::Transport;
    use crate::vault::HomeKey;
    use zeroize::Zeroizing;

    #[test]
    fn a_higher_generation_reads_and_a_lower_one_is_told_why_not() {
        let own = Transport::from_seed(Zeroizing::new([1; 32])).unwrap();
        let (bob, other) = (TransportKey([2; 32]), TransportKey([3; 32]));
        let agreed = FriendConfig {
            transport: bob,
            key: HomeKey([0; 32]),
            generation: 3,
            quota: 1,
            keep_s: 1,
            up: None,
            down: None,
            windows: vec![],
        };
        let name = |name: &str| HomeName::new(name).unwrap();
        let config = VaultConfig::new(name("alice"), 1, &own, [(name("bob"), agreed)].into());
        let judged = |read_only| Ok(Judged { friend: name("bob"), believed: 3, read_only });
        assert_eq!(judge(&config, bob, 3), judged(false));
        assert_eq!(judge(&config, bob, 4), judged(true));
        assert_eq!(judged(true), judge(&config, bob, COMES_BACK), "it has to read to know");
        let low = judge(&config, bob, 2).unwrap_err();
        assert!(low.contains("recovered or rescued") && low.contains("generation 3"), "{low}");
        assert_eq!(outlived(&config, bob, 2), Some(name("bob")));
        for (key, generation) in [(bob, 3), (bob, 4), (bob, COMES_BACK), (other, 1)] {
            assert_eq!(outlived(&config, key, generation), None);
        }
        assert_eq!(judge(&config, other, 3).unwrap_err(), "alice lends this home nothing (any more)");
        let itself = judge(&config, own.public(), 1).unwrap_err();
        assert_eq!(itself, "this is the vault of alice itself: it is open to its friends");
    }
}
