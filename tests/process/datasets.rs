//! `switchyard dataset check`, with the bundled base.

use std::path::Path;

use crate::support::Home;

#[test]
fn a_file_is_checked_fixed_and_then_fine() {
    let home = Home::new();
    let folder = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/datasets/chat.jsonl");
    let (clean, scores) = (folder.path().join("clean.jsonl"), folder.path().join("scores.csv"));
    let [golden, clean, scores] = [golden.as_path(), &clean, &scores].map(|path| path.to_str().unwrap());

    let refused = home.run(&["dataset", "check", golden, "--fix", clean, "--scores", scores]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for says in ["messages[0].role is \"human\"; it must be \"user\"", "lines 14, 15", "training refuses this file", "written: "]
    {
        assert!(refused.out.contains(says), "{says}: {}", refused.out);
    }
    assert!(std::fs::read_to_string(scores).unwrap().starts_with("line,score,reasons\n1,"));

    let accepted = home.run(&["dataset", "check", clean, "--json"]);
    assert_eq!(accepted.code, Some(0), "{accepted:?}");
    let report: serde_json::Value = serde_json::from_str(&accepted.out).unwrap();
    assert_eq!((&report["rows"], &report["usable"]), (&5.into(), &5.into()), "{report}");

    for (arguments, says) in [
        (&["dataset", "check", golden, "--fix", golden][..], "would replace FILE"),
        (&["dataset", "check", golden, "--map", "prompt=x"], "it needs messages"),
        (&["dataset", "check", golden, "--held-out", "2"], "--held-out 2"),
        (&["dataset", "check", "nothing.jsonl"], "cannot read nothing.jsonl"),
    ] {
        let failed = home.run(arguments);
        assert_eq!(failed.code, Some(1), "{failed:?}");
        assert!(failed.err.contains(says), "{failed:?}");
    }
}
