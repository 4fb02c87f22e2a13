//! What scripts rely on: exit codes, which stream a line goes to, and the tree as plain files and directories.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

fn compartment() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_compartment"));
    command
        .env_remove("COMPARTMENTS_MOUNT")
        .env_remove("XDG_RUNTIME_DIR")
        .timeout(std::time::Duration::from_secs(30));
    command
}

/// A directory of the control tree's shape: a group `web` with the member 41, and 50 in no group.
fn fake_tree() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("below")).expect("a directory");
        fs::write(path, text).expect("a file");
    };
    write("version", "compartments 0.1.0 abi 1\n");
    write("error_log", "");
    for (file, text) in [("nice", "0\n"), ("vcpus", "1\n"), ("cpu.max", "max 100000\n"), ("scheduler", "x\n")]
    {
        write(&format!("sched-groups/web/{file}"), text);
    }
    for (group, pid) in [("web", 41), ("0", 50)] {
        for (file, text) in [("comm", "sh\n"), ("state", "running\n"), ("nice", "0\n"), ("signal", "")] {
            write(&format!("sched-groups/{group}/{pid}/{file}"), text);
        }
    }
    dir
}

fn on(tree: &Path, args: &[&str]) -> assert_cmd::assert::Assert {
    compartment().arg("--mount").arg(tree).args(args).assert()
}

#[test]
fn usage_error_is_2_and_on_stderr() {
    for args in [
        &["nonsense"][..],
        &["mv", "x", "web"],
        &["mv", "0", "web"],
        &["mv"],
        &["run"],
        &["run", "--cpu", "none", "--", "true"],
        &["run", "--group", "a", "--cpu", "1", "--", "true"],
        &["create", "a/b"],
        &["create", "a", "--nice", "20"],
        &["set", "web", "nice"],
        &["set", "web", "../../x=1"],
        &["kill", "-s", "NOTHING", "1"],
        &["top", "-n", "3"],
        &["completions", "tcl"],
    ] {
        let assert = compartment().args(args).assert().code(2);
        let output = assert.get_output();
        assert!(output.stdout.is_empty(), "{args:?}");
        assert!(!output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn help_and_version_are_0_and_on_stdout() {
    for args in [&["--help"][..], &["--version"], &["run", "--help"]] {
        let assert = compartment().args(args).assert().code(0);
        assert!(!assert.get_output().stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn no_tree_is_3_for_every_verb_that_needs_one() {
    let dir = tempfile::tempdir().expect("a directory");
    for args in [
        &["ps"][..],
        &["show", "web"],
        &["create", "a"],
        &["mv", "1", "web"],
        &["set", "web", "nice=1"],
        &["kill", "1"],
        &["rm", "web"],
        &["top", "-b", "-n", "1"],
        &["run", "--", "true"],
    ] {
        on(dir.path(), args).code(3).stdout("");
    }
}

#[test]
fn failures_of_the_tree_are_1() {
    let tree = fake_tree();

    on(tree.path(), &["show", "none"]).code(1).stderr("compartment: no group none\n");
    on(tree.path(), &["mv", "7", "web"]).code(1).stderr("compartment: no process or guest task 7\n");
    on(tree.path(), &["create", "web"]).code(1);
    on(tree.path(), &["rm", "web"]).code(1);
    on(tree.path(), &["rm", "0"]).code(2);
}

#[test]
fn refusal_for_lack_of_rights_is_4() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;

    let tree = fake_tree();
    let nice = tree.path().join("sched-groups/web/nice");
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).expect("own directory");
    fs::set_permissions(&nice, fs::Permissions::from_mode(0o444)).expect("own file");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_compartment"));
    if fs::OpenOptions::new().write(true).open(&nice).is_ok() {
        // Root is never refused: be somebody else.
        command.uid(65_534);
    }
    command.arg("--mount").arg(tree.path()).args(["set", "web", "nice=1"]);

    let assert = Command::from_std(command).assert().code(4);

    assert!(String::from_utf8_lossy(&assert.get_output().stderr).contains("permission denied"));
}

#[test]
fn verbs_change_the_tree_as_a_shell_would() {
    let tree = fake_tree();
    let group = tree.path().join("sched-groups/web");

    on(tree.path(), &["set", "web", "nice=-5", "cpu=0.25"]).code(0).stdout("").stderr("");
    assert_eq!(fs::read_to_string(group.join("nice")).expect("a file"), "-5\n");
    assert_eq!(fs::read_to_string(group.join("cpu.max")).expect("a file"), "25000 100000\n");
    on(tree.path(), &["mv", "50", "web"]).code(0);
    assert!(group.join("50").is_dir());
    on(tree.path(), &["kill", "-s", "9", "50"]).code(0);
    assert_eq!(fs::read_to_string(group.join("50/signal")).expect("a file"), "KILL\n");
    on(tree.path(), &["create", "new"]).code(0);
    assert!(tree.path().join("sched-groups/new").is_dir());
    on(tree.path(), &["rm", "new"]).code(0);
    assert!(!tree.path().join("sched-groups/new").exists());
}

#[test]
fn lists_are_json_where_asked() {
    let tree = fake_tree();

    let output = on(tree.path(), &["ps", "--json"]).code(0).get_output().stdout.clone();
    let groups: serde_json::Value = serde_json::from_slice(&output).expect("JSON");
    assert_eq!(groups[0]["group"], "web");
    assert_eq!(groups[0]["members"][0]["pid"], 41);
    let output = on(tree.path(), &["show", "web", "41", "--json"]).code(0).get_output().stdout.clone();
    let member: serde_json::Value = serde_json::from_slice(&output).expect("JSON");
    assert_eq!(member["state"], "running");
    let output = compartment().args(["doctor", "--json"]).assert().get_output().stdout.clone();
    let report: serde_json::Value = serde_json::from_slice(&output).expect("JSON");
    assert!(report["probes"].as_array().is_some_and(|probes| probes.len() > 5));
}

#[test]
fn top_in_batch_mode_prints_as_often_as_asked() {
    let tree = fake_tree();

    let output = on(tree.path(), &["top", "-b", "-n", "2", "-d", "0.1"]).code(0).get_output().stdout.clone();

    let text = String::from_utf8(output).expect("text");
    assert_eq!(text.matches("GROUP  %CPU").count(), 2, "{text}");
}

#[test]
fn tree_is_found_by_the_variable() {
    let tree = fake_tree();
    compartment().env("COMPARTMENTS_MOUNT", tree.path()).arg("ps").assert().code(0);
    compartment().env("COMPARTMENTS_MOUNT", "/nonexistent").args(["run", "--", "true"]).assert().code(3);
}

#[test]
fn gate_that_nobody_opens_starts_nothing() {
    // Descriptor 0 is at its end: whoever held the other end of the pipe is gone.
    let command = ["exec-gate", "0", "-", "-", "echo", "started"];
    compartment().args(command).write_stdin("").assert().code(125).stdout("");
    compartment().args(command).write_stdin("g").assert().code(0).stdout("started\n");
    compartment().args(["exec-gate", "0", "-", "-", "/nonexistent"]).write_stdin("g").assert().code(127);
}
