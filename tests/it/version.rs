//! What `--version` says of the commit: by the build script, in checkouts of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::{Sandbox, needs};

/// A folder with the build script, and the same compiled.
struct Folder {
    sandbox: Sandbox,
    script: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let sandbox = Sandbox::on_disk();
        let (folder, script) = (sandbox.directory("folder"), sandbox.path("script"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs");
        let compiled =
            Command::new("rustc").args(["--edition=2024", "-o"]).arg(&script).arg(source).status().unwrap();
        assert!(compiled.success());
        for name in ["build.rs", "Cargo.toml", "Cargo.lock", "README.md"] {
            fs::write(folder.join(name), "one\n").unwrap();
        }
        Self { sandbox, script }
    }

    fn path(&self) -> PathBuf {
        self.sandbox.path("folder")
    }

    #[track_caller]
    fn git(&self, arguments: &[&str]) -> String {
        let identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"];
        let output = Command::new("git")
            .args(identity)
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .current_dir(self.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Commits everything; the commit.
    fn commit(&self) -> String {
        self.git(&["init", "-q"]);
        self.git(&["add", "."]);
        self.git(&["commit", "-q", "-m", "all"]);
        self.git(&["rev-parse", "--short=12", "HEAD"])
    }

    /// What the script tells cargo.
    fn says(&self, profile: &str, variable: &str) -> String {
        let output = Command::new(&self.script)
            .env_clear()
            .envs([("CARGO_PKG_VERSION", "1.2.3"), ("PROFILE", profile), ("VOLSEED_COMMIT", variable)])
            .env("PATH", std::env::var_os("PATH").unwrap())
            .current_dir(self.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn check(&self, profile: &str, variable: &str, expected: &str) {
        let said = self.says(profile, variable);
        let version = said.lines().find_map(|line| line.strip_prefix("cargo::rustc-env=VOLSEED_VERSION="));
        assert_eq!(version, Some(expected), "{said}");
    }
}

#[test]
fn a_release_build_names_the_commit_of_its_checkout() {
    if !needs::tools(&["git", "rustc"]) {
        return;
    }
    let folder = Folder::new();
    folder.check("release", "", "1.2.3");
    let commit = folder.commit();
    folder.check("release", "", &format!("1.2.3 ({commit})"));
    folder.check("debug", "", "1.2.3");
    fs::write(folder.path().join("README.md"), "two\n").unwrap();
    folder.check("release", "", &format!("1.2.3 ({commit})"));
    fs::write(folder.path().join("Cargo.lock"), "two\n").unwrap();
    folder.check("release", "", &format!("1.2.3 ({commit}-dirty)"));
}

#[test]
fn without_a_checkout_the_variable_names_the_commit() {
    if !needs::tools(&["git", "rustc"]) {
        return;
    }
    let folder = Folder::new();
    folder.check("release", "0123456789ab", "1.2.3 (0123456789ab)");
    folder.check("debug", "0123456789ab", "1.2.3");
}

/// Cargo takes a path that is missing for one that has changed, and would build each time.
#[test]
fn the_build_script_watches_only_paths_that_exist() {
    if !needs::tools(&["git", "rustc"]) {
        return;
    }
    let folder = Folder::new();
    folder.commit();
    let said = folder.says("release", "");
    let watched: Vec<_> =
        said.lines().filter_map(|line| line.strip_prefix("cargo::rerun-if-changed=")).collect();
    assert!(watched.contains(&".git/logs/HEAD") && watched.contains(&"Cargo.lock"), "{said}");
    for path in watched {
        assert!(folder.path().join(path).exists(), "{path}");
    }
}
