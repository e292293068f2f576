//! A repository changes hands from one recovery kit to the next, with the real restic: both open it in between, the new
//! one alone afterwards, and what was signed with the old one is no loss.

use crate::restic::skip;
use crate::round::{Bob, NOW, copy, why};
use crate::stage::{BEGIN, PATIENCE, home, statement};
use std::time::Duration;
use thermidor_backup::kit::Kit;
use thermidor_backup::restic::ResticError;
use thermidor_backup::round::Round;
use thermidor_backup::vault::{BlobName, Kind, Says, Visit, VisitError};
use thermidor_model::backup::{Passes, Record};
use tokio::net::TcpStream;

const HOUR: Duration = Duration::from_secs(3600);

fn by<'a>(bob: &'a Bob, kit: &'a Kit) -> Round<'a> {
    Round { kit, ..bob.round() }
}

/// Alice's person has confirmed: statements are believed under that kit.
fn alice_believes(bob: &Bob, kit: &Kit) {
    bob.agree(|terms| terms.key = Some(kit.signer().unwrap().public()));
}

async fn opens(bob: &Bob, kit: &Kit, as_of: Option<u64>) -> Result<usize, ResticError> {
    let repository = by(bob, kit).repository(as_of).unwrap();
    bob.restic.snapshots(&repository).await.map(|all| all.len())
}

fn is_wrong(opened: Result<usize, ResticError>) -> bool {
    matches!(opened, Err(ResticError::WrongPassword))
}

fn keys(bob: &Bob) -> Vec<BlobName> {
    let all = std::fs::read_dir(bob.kept().join("keys")).unwrap();
    all.map(|e| BlobName::read(e.unwrap().file_name().to_str().unwrap()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_kits_open_a_repository_until_the_friend_believes_in_the_new_one_which_then_opens_it_alone() {
    let name =
        "both_kits_open_a_repository_until_the_friend_believes_in_the_new_one_which_then_opens_it_alone";
    if skip(name) {
        return;
    }
    let (mut bob, new) = (Bob::new().await, Kit::draw().unwrap());
    assert!(!by(&bob, &new).admit(&bob.kit).await.unwrap(), "there is no repository yet");
    let first = bob.back_up(&Record::default(), NOW).await;
    assert_eq!(first.failure, None);
    assert!(is_wrong(opens(&bob, &new, None).await));
    let before = BEGIN / 1000 + 60;
    bob.stage.pass(HOUR);

    for _ in 0..2 {
        assert!(by(&bob, &new).admit(&bob.kit).await.unwrap());
    }
    assert_eq!(keys(&bob).len(), 2, "none is added twice");
    for kit in [&bob.kit, &new] {
        assert_eq!(opens(&bob, kit, None).await.unwrap(), 1);
    }
    // What came later is not in the past before it is believed: whoever has the old paper could put anything there.
    assert_eq!(opens(&bob, &bob.kit, Some(before)).await.unwrap(), 1);
    assert!(is_wrong(opens(&bob, &new, Some(before)).await));
    bob.message(5);
    let second = bob.back_up(&first, NOW + 1000).await;
    assert_eq!(second.failure, None, "backups go on under the kit that the friend knows");
    let early = by(&bob, &new).take_over(&bob.kit, &second, || NOW + 2000).await;
    assert!(why(&early).0.contains("signature"), "it is not believed before: {early:?}");
    assert_eq!(early.head, second.head);

    alice_believes(&bob, &new);
    bob.stage.pass(HOUR);
    let taken = by(&bob, &new).take_over(&bob.kit, &second, || NOW + 3000).await;
    assert_eq!(taken.failure, None, "no loss is told");
    assert!(taken.head.as_ref().unwrap().number > second.head.as_ref().unwrap().number);
    assert!(taken.old_keys.is_empty());
    let again = by(&bob, &new).take_over(&bob.kit, &taken, || NOW + 4000).await;
    assert_eq!(again, taken, "there is nothing left to do");
    // The old key is announced: hidden at once, kept for the agreed time.
    assert!(is_wrong(opens(&bob, &bob.kit, None).await));
    assert_eq!(opens(&bob, &new, None).await.unwrap(), 2);
    for kit in [&bob.kit, &new] {
        assert_eq!(opens(&bob, kit, Some(before)).await.unwrap(), 1, "the past opens with both");
    }
    assert_eq!((keys(&bob).len(), bob.stage.vault.deletions(&home("bob")).len()), (2, 1));

    let old = std::mem::replace(&mut bob.kit, new);
    bob.message(6);
    let third = bob.back_up(&taken, NOW + 5000).await;
    assert_eq!((third.failure.clone(), third.proven), (None, Some(NOW + 4995)));
    bob.stage.pass(15 * 24 * HOUR);
    bob.stage.vault.tend();
    assert_eq!(keys(&bob).len(), 1);
    assert!(is_wrong(opens(&bob, &old, Some(before)).await), "the old one opens nothing any more");
    assert_eq!(opens(&bob, &bob.kit, Some(before)).await.unwrap(), 1);
    assert_eq!(bob.round().prove(&third, || NOW + 6000).await.failure, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_that_was_put_back_is_told_at_the_handover_whoever_signed_the_head() {
    if skip("a_vault_that_was_put_back_is_told_at_the_handover_whoever_signed_the_head") {
        return;
    }
    let (bob, new) = (Bob::new().await, Kit::draw().unwrap());
    let first = bob.back_up(&Record::default(), NOW).await;
    assert!(by(&bob, &new).admit(&bob.kit).await.unwrap());
    let earlier = bob.dir.path().join("earlier");
    copy(&bob.stage.root, &earlier);
    bob.message(7);
    let second = bob.back_up(&first, NOW + 1000).await;
    let friends = bob.stage.root.join("friends");
    std::fs::remove_dir_all(&friends).unwrap();
    copy(&earlier.join("friends"), &friends);
    bob.stage.vault.close(&home("bob"));
    alice_believes(&bob, &new);
    let told = by(&bob, &new).take_over(&bob.kit, &second, || NOW + 2000).await;
    let (text, passes) = why(&told);
    assert!(text.contains("rolled back") && passes == Passes::ByAPerson, "{text}");
    assert_eq!((told.head, told.old_keys.len()), (second.head.clone(), 0));
    // A head of neither kit is none of ours.
    let stranger = Kit::draw().unwrap();
    let forged = by(&bob, &new).take_over(&stranger, &second, || NOW + 3000).await;
    assert!(why(&forged).0.contains("not this home's"), "{forged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_keys_that_a_vault_does_not_let_go_of_yet_are_announced_later_and_never_the_last_one() {
    let name = "old_keys_that_a_vault_does_not_let_go_of_yet_are_announced_later_and_never_the_last_one";
    if skip(name) {
        return;
    }
    let (bob, new) = (Bob::new().await, Kit::draw().unwrap());
    let first = bob.back_up(&Record::default(), NOW).await;
    assert!(by(&bob, &new).admit(&bob.kit).await.unwrap());
    let signer = || new.signer().unwrap();
    bob.agree(|terms| (terms.key, terms.share_percent) = (Some(signer().public()), 0));
    let taken = by(&bob, &new).take_over(&bob.kit, &first, || NOW + 1000).await;
    assert_eq!((taken.failure.clone(), taken.old_keys.len()), (None, 1), "the handover is done");
    assert_eq!(opens(&bob, &bob.kit, None).await.unwrap(), 1, "the key is still there");

    alice_believes(&bob, &new);
    let list = |number, names: Vec<BlobName>| {
        let says = Says::Delete(names.into_iter().map(|name| (Kind::Keys, name)).collect());
        signer().sign(&statement("mail", number, says)).unwrap()
    };
    let visit = async || {
        let stream = TcpStream::connect(bob.at).await.unwrap();
        Visit::begin(stream, home("bob"), home("alice"), None, PATIENCE).await.unwrap()
    };
    let every = visit().await.announce(&list(NOW + 5000, keys(&bob))).await;
    let Err(VisitError::Refused { status, reason }) = every else { panic!("{every:?}") };
    assert!(status == 422 && reason.contains("one must remain"), "{status} {reason}");

    let gone = by(&bob, &new).let_go_of_old_keys(&taken, || NOW + 6000).await;
    assert!(gone.old_keys.is_empty() && gone.failure.is_none());
    assert!(is_wrong(opens(&bob, &bob.kit, None).await));
    // The one that is left, now that the other waits for its deletion.
    let left: Vec<_> =
        keys(&bob).into_iter().filter(|name| !taken.old_keys.contains(&name.to_string())).collect();
    assert_eq!(left.len(), 1);
    let last = visit().await.announce(&list(NOW + 9000, left)).await;
    assert!(
        matches!(&last, Err(VisitError::Refused { reason, .. }) if reason.contains("one must remain")),
        "{last:?}"
    );
    assert_eq!(opens(&bob, &new, None).await.unwrap(), 1);
}
