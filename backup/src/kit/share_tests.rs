//! Splits: what is fixed for ever, every way to combine, and all that does not go together.

use super::*;
use crate::kit::read::Suspect;

fn terms(needed: usize, of: usize) -> Terms {
    Terms::new(needed, of).unwrap()
}

/// Bytes that look random and are always the same.
fn counted() -> impl FnMut(&mut [u8]) -> Result<(), CryptoFailed> {
    let mut count = 0u32;
    move |drawn| {
        for byte in drawn {
            *byte = digest(&SHA256, &count.to_be_bytes()).as_ref()[0];
            count += 1;
        }
        Ok(())
    }
}

fn some_kit() -> Kit {
    Kit::from_entropy(&std::array::from_fn::<u8, 32, _>(|n| (n * 7) as u8)).unwrap()
}

#[test]
fn a_split_on_paper_gives_the_kit_in_every_version() {
    let shares = some_kit().split_with(SplitId(0x2a_5a5a), terms(2, 3), counted()).unwrap();
    let words: Vec<String> = shares.iter().map(|share| share.words().join(" ")).collect();
    assert_eq!(words, VECTOR);
    for (one, other) in [(0, 1), (0, 2), (2, 1)] {
        let read = [one, other].map(|at| Share::read(VECTOR[at]).unwrap());
        assert_eq!(Kit::combine(&read), Ok(some_kit()));
    }
    assert_eq!(shares[0].id.to_string(), VECTOR[0].split(' ').take(2).collect::<Vec<_>>().join("-"));
}

#[test]
fn any_so_many_shares_give_the_kit_and_fewer_say_what_is_missing() {
    let kit = Kit::draw().unwrap();
    for of in 2..=5 {
        for needed in 2..=of {
            let shares = kit.split(terms(needed, of)).unwrap();
            for chosen in 1u32..1 << of {
                let given: Vec<Share> =
                    shares.iter().filter(|s| chosen >> (s.number - 1) & 1 == 1).cloned().collect();
                let missing = needed.saturating_sub(given.len());
                match Kit::combine(&given) {
                    Ok(combined) => assert!(missing == 0 && combined == kit, "{needed} of {of}: {chosen:b}"),
                    Err(SplitError::TooFew { id, missing: said, needed: of_all, others }) => {
                        assert_eq!((id, said, of_all), (shares[0].id, missing, needed));
                        assert_eq!(others.len(), of - given.len());
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        }
    }
    let sixteen = kit.split(terms(16, 16)).unwrap();
    assert_eq!(Kit::combine(&sixteen), Ok(kit));
    let why = Kit::combine(&sixteen[..14]).unwrap_err().to_string();
    assert!(
        why.starts_with("2 more shares of the split ") && why.ends_with("it takes 16, any of 15, 16"),
        "{why}"
    );
    for (needed, of) in [(0, 0), (1, 1), (1, 3), (3, 2), (2, 17), (17, 17)] {
        assert_eq!(Terms::new(needed, of), Err(SplitError::Terms { needed, of }));
    }
}

#[test]
fn every_coefficient_is_drawn_and_may_be_zero() {
    let nothing = |drawn: &mut [u8]| {
        drawn.fill(0);
        Ok(())
    };
    let shares = some_kit().split_with(SplitId(1), terms(3, 4), nothing).unwrap();
    assert!(
        shares.iter().all(|share| share.values[..32] == some_kit().0[..]),
        "a constant: nothing is made up for 0"
    );
    let mut asked = 0;
    let counting = |drawn: &mut [u8]| {
        asked += drawn.len();
        Ok(())
    };
    some_kit().split_with(SplitId(1), terms(3, 4), counting).unwrap();
    assert_eq!(asked, 2 * SPLIT, "none is used twice");
    // Drawn by the system each value of a byte comes, 0 no less than others: 200 splits draw 7200 of them.
    let mut seen = [0u32; 256];
    for _ in 0..200 {
        let shares = some_kit().split(terms(2, 2)).unwrap();
        for (one, other) in shares[0].values.iter().zip(shares[1].values.iter()) {
            // At 1 and 2 it is s + c and s + 2c, which differ by 3c.
            seen[usize::from(times(one ^ other, crate::kit::field::inverse(3)))] += 1;
        }
    }
    // 28 each; below 5 or above 70 is one of a billion.
    assert!(seen.iter().all(|count| (5..=70).contains(count)), "{seen:?}");
    let refused = some_kit().split_with(SplitId(1), terms(2, 2), |_| Err(CryptoFailed));
    assert_eq!(refused, Err(SplitError::Crypto(CryptoFailed)));
}

#[test]
fn shares_that_do_not_go_together_are_told() {
    let kit = Kit::draw().unwrap();
    let (one, other) = (kit.split(terms(2, 3)).unwrap(), kit.split(terms(2, 3)).unwrap());
    let mixed = Kit::combine(&[one[0].clone(), other[1].clone()]);
    assert_eq!(mixed, Err(SplitError::Mixed(one[0].id, other[1].id)));
    let twice = Kit::combine(&[one[1].clone(), one[1].clone()]);
    assert_eq!(twice, Err(SplitError::Twice { id: one[1].id, number: 2 }));
    // By chance, or by somebody's will, of the same number: their sum does not fit.
    let alike = |kit: &Kit, terms| {
        kit.split_with(SplitId(7), terms, |d| SystemRandom::new().fill(d).map_err(|_| CryptoFailed))
    };
    let (one, other) =
        (alike(&kit, terms(2, 3)).unwrap(), alike(&Kit::draw().unwrap(), terms(2, 3)).unwrap());
    let checksum = Err(SplitError::Checksum(SplitId(7)));
    assert_eq!(Kit::combine(&[one[0].clone(), other[1].clone()]), checksum);
    assert_eq!(Kit::combine(&[one[0].clone(), one[2].clone(), other[1].clone()]), checksum);
    let more = alike(&kit, terms(3, 3)).unwrap();
    assert_eq!(Kit::combine(&[one[0].clone(), more[1].clone()]), checksum);
    let mut altered = one[1].clone();
    altered.values[30] ^= 1;
    assert_eq!(Kit::combine(&[one[0].clone(), altered]), checksum);
    assert!(Kit::combine(&[]).is_err());
}

#[test]
fn a_mistyped_word_of_a_share_is_found() {
    let share = &some_kit().split_with(SplitId(0x2a_5a5a), terms(2, 3), counted()).unwrap()[0];
    let words = share.words();
    assert_eq!(Share::read(&words.join("\n")), Ok(share.clone()));
    for at in 0..SHARE_WORDS {
        let mut wrong = words.map(str::to_owned);
        wrong[at].insert(1, 'q');
        let why = Share::read(&wrong.join(" ")).unwrap_err();
        let KitError::Unknown(words::Unknown { position, near, .. }) = &why else { panic!("{why:?}") };
        assert_eq!((*position, near[0]), (at + 1, words[at]), "{why}");
        if at + 1 < SHARE_WORDS && words[at] != words[at + 1] {
            let mut swapped = words;
            swapped.swap(at, at + 1);
            let why = Share::read(&swapped.join(" ")).unwrap_err();
            let KitError::Checksum(suspects) = &why else { panic!("{why:?}") };
            assert!(suspects.contains(&Suspect::Swapped(at + 1)), "{why}");
        }
    }
    let count = KitError::Count { what: "a share", words: 32, given: 31 };
    assert_eq!(Share::read(&words[..31].join(" ")), Err(count));
}

#[test]
fn a_later_form_and_numbers_that_can_not_be_are_refused() {
    let share = some_kit().split(terms(2, 3)).unwrap().remove(0);
    for wrong in [
        Share { number: 4, ..share.clone() },
        Share { terms: Terms { needed: 1, of: 3 }, ..share.clone() },
        Share { terms: Terms { needed: 4, of: 3 }, ..share.clone() },
    ] {
        let why = Share::read(&wrong.words().join(" ")).unwrap_err();
        assert!(matches!(why, KitError::Split(_)), "{why:?}");
    }
    let later = |bits: u64| {
        let numbers: Vec<u16> = share.words().iter().map(|word| words::number(word).unwrap()).collect();
        let mut bytes = unpack(&numbers).unwrap();
        for (byte, bits) in bytes[..5].iter_mut().zip(&bits.to_be_bytes()[3..]) {
            *byte |= bits;
        }
        let check = check_of(&bytes);
        bytes[COVERED..].copy_from_slice(&check);
        let all: Vec<&str> = (0..SHARE_WORDS).map(|at| word_at(&bytes, at)).collect();
        Share::read(&all.join(" "))
    };
    for bits in [1, 8, 0x1_0000, 0x2_0000] {
        let why = later(bits).unwrap_err();
        assert!(matches!(why, KitError::Split(SplitError::Form(_))), "{why:?}");
    }
}

#[test]
fn a_share_shows_its_secret_to_no_log() {
    let share = &some_kit().split(terms(2, 2)).unwrap()[0];
    assert_eq!(format!("{share:?}"), format!("Share({}, 1, ..)", share.id));
}

/// Read and combined by another program in another language too.
const VECTOR: [&str; 3] = [
    "practice ensure afraid accuse will plug inject then oblige cannon scorpion erupt enact horn jewel goat \
     wet route enough gold hurdle trip build wide advice feature antique way oppose century uncle tiger",
    "practice ensure afraid candy firm dune judge erupt fence suffer mystery denial witness park image sure \
     idle runway island physical much pulp witness unit gap negative moral blame keep weekend you screen",
    "practice ensure afraid domain project grape flee chunk train hybrid frame wheel gauge there monitor mosquito \
     wrestle volume garden they fee music garden scheme panel off coral equip electric snake nothing empower",
];
