//! Upgrades of two real trees: Debian's mediawiki and wordpress, and another version of each that is made of it.
//!
//! The user has settings, uploads and a theme that `--keep` names, and has changed, removed and added files everywhere.
//! Every file of the volume is compared with what docs/upgrades.md promises of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::corpus::set_time;
use crate::fidelity::volume;
use crate::kit::{Sandbox, needs};
use crate::{report, rounds, row};

use super::images::{Amounts, Image, Images, Lists, copy};
use super::judge::Expected;
use super::settled;
use super::user::User;

/// Upgrades Debian's mediawiki and wordpress on a volume that a user has changed, and compares every file
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// File systems
    #[arg(long, value_delimiter = ',', default_value = "tmpfs,ext4", value_name = "KIND,…")]
    on: Vec<String>,
    /// Directory where the packages are, or are downloaded to; otherwise they are downloaded each time
    #[arg(long, value_name = "DIR")]
    packages: Option<PathBuf>,
}

struct App {
    name: &'static str,
    packages: &'static [&'static str],
    root: &'static str,
    /// The file that names the version, and what comes before it there.
    sentinel: &'static str,
    before_version: &'static str,
    /// A directory that the other version does not have.
    gone: &'static str,
    settings: &'static str,
    uploads: &'static str,
    theme: &'static str,
}

const APPS: [App; 2] = [
    App {
        name: "mediawiki",
        packages: &["mediawiki"],
        root: "usr/share/mediawiki",
        sentinel: "includes/Defines.php",
        before_version: "'MW_VERSION', '",
        gone: "extensions-core/Gadgets",
        settings: "LocalSettings.php",
        uploads: "images",
        theme: "skins/Timeless",
    },
    App {
        name: "wordpress",
        packages: &["wordpress", "wordpress-theme-twentytwentythree"],
        root: "usr/share/wordpress",
        sentinel: "wp-includes/version.php",
        before_version: "$wp_version = '",
        gone: "wp-includes/ID3",
        settings: "wp-config.php",
        uploads: "wp-content/uploads",
        theme: "wp-content/themes/twentytwentythree",
    },
];

/// A patch release: what it does to the files outside of `gone`.
const AMOUNTS: Amounts = Amounts { changed: 200, removed: 40, added: 40 };
const UPLOADS: usize = 30;

pub(crate) fn run(arguments: &Arguments) -> usize {
    if !needs::tools(&["apt-get", "dpkg-deb"]) {
        return 0;
    }
    let began = Instant::now();
    let (mut rows, mut broken) = (Vec::new(), 0);
    for app in &APPS {
        let made = match app.images(arguments.packages.as_deref()) {
            Ok(made) => made,
            Err(cause) => {
                eprintln!("NOT CHECKED: {}: {cause}", app.name);
                broken += usize::from(std::env::var_os("CI").is_some());
                rows.push(row![app.name, "-", "-", "-", "-", "NOT CHECKED: not downloaded"]);
                continue;
            }
        };
        for (number, kind) in (0..).zip(&arguments.on) {
            if kind != "tmpfs" && !needs::file_system(kind) {
                continue;
            }
            let (mut seconds, images) = (None, &made.images);
            let round = |number| app.upgrade(kind, number, &made);
            let name = format!("{} on {kind}", app.name);
            let was_broken = rounds::play(&name, number..number + 1, 1, round, |took| seconds = Some(took));
            let shown = seconds.map_or("-".to_owned(), |seconds: f64| format!("{seconds:.2}"));
            let verdict = if was_broken == 0 { "as promised" } else { "broken" };
            rows.push(row![app.name, images.versions.join(" → "), made.files, kind, shown, verdict]);
            broken += was_broken;
        }
    }
    report::heading("upgrade-real", "patch releases made of Debian's packages", began.elapsed());
    report::table(&["app", "versions", "files", "file system", "seconds", "every file"], &rows);
    broken
}

/// Both versions of an app.
struct Made {
    images: Images,
    files: usize,
    /// Files of the theme that the other version changes.
    theme: Vec<PathBuf>,
}

impl App {
    fn images(&self, packages: Option<&Path>) -> Result<Made, String> {
        let sandbox = Sandbox::on_disk();
        let debs = packages.map_or_else(|| sandbox.directory("packages"), Path::to_owned);
        let unpacked = sandbox.directory("unpacked");
        download(self.packages, &debs)?;
        for entry in fs::read_dir(&debs).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if self.packages.iter().any(|package| name.starts_with(&format!("{package}_"))) {
                run_tool(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(&unpacked))?;
            }
        }
        let (old, new) = (unpacked.join(self.root), sandbox.path("new"));
        copy(&old, &new);
        let without = [self.sentinel, self.settings, self.uploads, self.theme].map(Path::new);
        let mut lists = Lists::of(&old, &without);
        let files = lists.same.len();
        lists.change(&new, self.gone.as_ref(), &AMOUNTS);
        let versions = self.raise_version(&new.join(self.sentinel));
        let theme = self.change_theme(&old, &new);
        let sentinel = self.sentinel.into();
        Ok(Made { images: Images { old, new, lists, sentinel, versions, sandbox }, files, theme })
    }

    /// Writes the next patch release's number into the file that names the version; both numbers.
    fn raise_version(&self, sentinel: &Path) -> [String; 2] {
        let text = fs::read_to_string(sentinel).unwrap();
        let (before, rest) = text.split_once(self.before_version).unwrap();
        let (version, after) = rest.split_once('\'').unwrap();
        let (release, patch) = version.rsplit_once('.').unwrap();
        let next = format!("{release}.{}", patch.parse::<u32>().unwrap() + 1);
        change(sentinel, &format!("{before}{}{next}'{after}", self.before_version));
        [version.to_owned(), next]
    }

    /// Changes two files of the theme.
    fn change_theme(&self, old: &Path, new: &Path) -> Vec<PathBuf> {
        let theme = Lists::of(&old.join(self.theme), &[]).same;
        let is_text = |path: &PathBuf| fs::read_to_string(new.join(path)).is_ok();
        let paths = theme.into_iter().map(|path| Path::new(self.theme).join(path));
        let paths: Vec<PathBuf> = paths.filter(is_text).take(2).collect();
        for path in paths.iter().map(|path| new.join(path)) {
            change(&path, &(fs::read_to_string(&path).unwrap() + "\n/* the next release */\n"));
        }
        paths
    }

    /// Seeds a volume, edits it, upgrades it, and compares; the seconds that the upgrade took.
    fn upgrade(&self, kind: &str, number: u64, made: &Made) -> f64 {
        let Made { images, theme, .. } = made;
        let sandbox = Sandbox::on_disk();
        let (_mounted, volume) = volume(kind, &sandbox);
        settled(images.start(&volume, Image::Old)).exits(0);
        let mut user = User::new(images, &volume, number);
        user.replace(self.settings.as_ref());
        user.fill(self.uploads.as_ref(), UPLOADS);
        user.hold(theme);
        let edits = user.edit_all(&mut fastrand::Rng::with_seed(number));
        let expected = Expected::of(&volume, edits);
        let began = Instant::now();
        settled(images.start(&volume, Image::New).option("--keep", self.theme).json())
            .exits(0)
            .says("\"upgraded\"");
        let took = began.elapsed().as_secs_f64();
        expected.check_end(&volume);
        took
    }
}

/// Gives a file another text, and a later time.
fn change(path: &Path, text: &str) {
    let later = fs::metadata(path).unwrap().mtime() + 1000;
    fs::write(path, text).unwrap();
    set_time(path, later);
}

fn download(packages: &[&str], to: &Path) -> Result<(), String> {
    fs::create_dir_all(to).unwrap();
    // Its own user could not write there, and says so on every run.
    let mut apt = Command::new("apt-get");
    run_tool(apt.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(packages).current_dir(to))
}

/// The last line that it said is the error.
fn run_tool(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or("it says nothing").to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {last}")) }
}
