//! Real containers: namespaces, mounts, credentials, exit codes.

mod common;

use common::{Bed, sh, usable};

#[test]
fn a_command_runs_and_its_code_comes_back() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let outcome = bed.run(&sh("echo hello; exit 7")).unwrap();
    assert_eq!((outcome.code, outcome.text.as_str()), (7, "hello\n"));
}
