//! Crashes at fail points that a seed chooses, in sequences of operations that it chooses too: afterwards the store is as it was before the operation that was
//! cut short, or as it is after it, and nothing is left over. `SEED=n` runs one of them again, and nothing else.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use common::{Tar, is_root, top_layer_of};
use store::{CommitOptions, ImportOptions, Options, Records, Store};

const DIRECTORY: &str = "CAIS_TEST_SEEDED_DIRECTORY";
const SEED: &str = "CAIS_TEST_SEEDED_SEED";
/// How many seeds a run tries.
const SEEDS: u64 = 24;
const STEPS: usize = 12;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const POINTS: [&str; 12] = [
    "store.layer.unpacked",
    "store.image.staged",
    "store.image.synced",
    "store.image.published",
    "store.image.recorded",
    "store.db.begin",
    "store.db.commit",
    "store.db.committed",
    "store.remove.begin",
    "store.remove.recorded",
    "store.layer.dropped",
    "durable.dir.renamed",
];

/// What each name means: the content of the image's file.
type Model = BTreeMap<String, String>;

/// The same numbers for the same seed, everywhere.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            dice.roll(2);
        }
        dice
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 16) % sides as u64).expect("small")
    }
}

fn note(root: &Path, file: &str, model: &Model) {
    let text: String = model.iter().map(|(name, content)| format!("{name}={content}\n")).collect();
    let staged = root.with_extension("note");
    std::fs::write(&staged, text).expect("notes");
    std::fs::rename(staged, root.with_extension(file)).expect("notes");
}

fn noted(root: &Path, file: &str) -> Model {
    let text = std::fs::read_to_string(root.with_extension(file)).unwrap_or_default();
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, content)| (name.to_owned(), content.to_owned())).collect()
}

fn import(store: &Store, content: &str, name: &str) {
    let options = ImportOptions { name: Some(name.parse().expect("name")), ..ImportOptions::default() };
    store.import(&mut Tar::default().file("f", content).end().as_slice(), &options).expect("imports");
}

/// One operation, chosen by the dice. What is to be afterwards is noted before it begins.
fn step(store: &Store, root: &Path, model: &mut Model, dice: &mut Dice) {
    let name = NAMES[dice.roll(NAMES.len())];
    let known: Vec<String> = model.keys().cloned().collect();
    let other = (!known.is_empty()).then(|| known[dice.roll(known.len())].clone());
    let content = format!("content {}", dice.roll(5));
    match (dice.roll(5), other) {
        (0, Some(other)) => {
            model.insert(name.to_owned(), model[&other].clone());
            note(root, "intent", model);
            let image = store.resolve(&other).expect("is there");
            store.tag(&image.id, &name.parse().expect("name")).expect("tags");
        }
        (1, Some(other)) => {
            model.remove(&other);
            note(root, "intent", model);
            // One that others were made from stays, and is the same before and after.
            if store.remove_image(&other, true, false, &|_| Vec::new()).is_err() {
                *model = noted(root, "done");
            }
        }
        (2, Some(other)) => {
            let mut archive = Vec::new();
            store.save(std::slice::from_ref(&other), None, &mut archive).expect("saves");
            note(root, "intent", model);
            store.load(&mut archive.as_slice(), None).expect("loads");
        }
        (3, Some(other)) => {
            model.insert(name.to_owned(), content.clone());
            note(root, "intent", model);
            let parent = store.resolve(&other).expect("is there");
            let snapshot = store.create_snapshot("box", &parent).expect("makes");
            std::fs::write(snapshot.upper.join("f"), &content).expect("writes");
            let options = CommitOptions { name: Some(name.parse().expect("name")), ..CommitOptions::default() };
            store.commit_container("box", &parent, &options).expect("commits");
            store.remove_snapshot("box").expect("removes");
        }
        _ => {
            model.insert(name.to_owned(), content.clone());
            note(root, "intent", model);
            import(store, &content, name);
        }
    }
    note(root, "done", model);
}

/// Run by the test below in a process of its own, with a fail point armed.
#[test]
fn child() {
    let (Ok(root), Ok(seed)) = (std::env::var(DIRECTORY), std::env::var(SEED)) else { return };
    let root = Path::new(&root);
    let store = Store::open(Options::new(root)).expect("opens");
    let (mut model, mut dice) = (Model::new(), Dice::new(seed.parse().expect("a number")));
    for _ in 0..STEPS {
        step(&store, root, &mut model, &mut dice);
    }
}

fn audit(root: &Path, what: &str) {
    let store = Store::open(Options::new(root)).unwrap_or_else(|error| panic!("{what}: {}", types::error::chain(&error)));
    for id in store.snapshot_ids().expect("lists") {
        store.remove_snapshot(&id).expect("removes");
    }
    let catalog = store.catalog();
    let mut found = Model::new();
    for (name, target) in catalog.names() {
        let image = catalog.image(&target.image).unwrap_or_else(|| panic!("{what}: {name} means nothing"));
        store.content().read(&image.id).unwrap_or_else(|error| panic!("{what}: {error}"));
        let content = std::fs::read_to_string(top_layer_of(&store, image).join("f")).unwrap_or_else(|error| panic!("{what}: {error}"));
        found.insert(name.familiar_name(), content);
    }
    let (before, after) = (noted(root, "done"), noted(root, "intent"));
    assert!(found == before || found == after, "{what}: {found:?}, neither {before:?} nor {after:?}");
    let verified = store.verify(&mut |_| true).expect("verifies");
    assert!(verified.damaged.is_empty() && verified.documents_damaged.is_empty(), "{what}: {verified:?}");
    store.wait_for_removals();
    let count = |directory: &str| std::fs::read_dir(root.join(directory)).expect("lists").count();
    assert_eq!((count("staging"), count("trash"), count("containers")), (0, 0, 0), "{what}");
    let needed: BTreeSet<&str> = catalog.images().flat_map(|image| &image.layers).map(|layer| layer.key.as_str()).collect();
    assert_eq!(count("layers"), needed.len(), "{what}: layers that nobody has");
    assert_eq!(store.db().scan_raw("layer").expect("scans").len(), needed.len(), "{what}");
    import(&store, "goes on", "next");
}

fn crash(seed: u64) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let root = directory.path().join("root");
    let mut dice = Dice::new(seed ^ 0xffff);
    let point = format!("{}:{}", POINTS[dice.roll(POINTS.len())], 1 + dice.roll(6));
    let mut child = Command::new(std::env::current_exe().expect("own path"));
    child.args(["--exact", "child", "--quiet"]).env(DIRECTORY, &root).env(SEED, seed.to_string()).env("CAIS_FAIL_POINT", &point);
    let ended = child.output().expect("runs");
    // A point that the sequence does not reach so often leaves a whole run, which is audited all the same.
    let is_crash = ended.status.signal() == Some(6);
    assert!(is_crash || ended.status.success(), "SEED={seed} {point}: {}", String::from_utf8_lossy(&ended.stdout));
    audit(&root, &format!("SEED={seed} {point}"));
}

#[test]
fn whatever_is_cut_short_happened_or_did_not() {
    if !is_root() {
        return;
    }
    match std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => crash(seed),
        None => (1..=SEEDS).for_each(crash),
    }
}
