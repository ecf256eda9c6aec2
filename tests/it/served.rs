//! The volume as a web root: what stock web servers give away of what is volseed's.
//!
//! Told as a user of the web would see it: every path below `.volseed` is asked for, and every listing.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::kit::http::{Answer, get};
use crate::kit::scene::APP;
use crate::kit::{Sandbox, Tree, Volseed, eventually, needs, seed, staged};

/// The record that is there to be read by others: it names nothing.
const PUBLIC: &str = ".volseed/state.json";
/// The only name that it may hold.
const SENTINEL: &str = "version.php";
/// What must not be told to the web.
const SECRETS: [&str; 5] = ["top-secret", "app.ini", "hidden", "7.4.2-rc1", "/source"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nginx,
    Apache,
}

impl Kind {
    /// Those that this machine has.
    #[track_caller]
    fn all() -> Vec<Kind> {
        let there = needs::root() && needs::tools(&["nginx", "apache2"]);
        if there { vec![Kind::Nginx, Kind::Apache] } else { Vec::new() }
    }

    /// As it comes, but for what is needed to run beside others: listings are on.
    fn config(self, port: u16, root: &Path, own: &Path, rules: &str) -> String {
        let (root, own) = (root.display(), own.display());
        match self {
            Kind::Nginx => format!(
                "daemon off; pid {own}/pid; error_log {own}/log; events {{}}\n\
                 http {{ access_log off; client_body_temp_path {own}/1; proxy_temp_path {own}/2;\n\
                 fastcgi_temp_path {own}/3; uwsgi_temp_path {own}/4; scgi_temp_path {own}/5;\n\
                 server {{ listen 127.0.0.1:{port}; root {root}; autoindex on;\n{rules}\n}} }}\n"
            ),
            Kind::Apache => {
                let modules = ["mpm_event", "authz_core", "alias", "dir", "autoindex", "mime"];
                let modules = modules
                    .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"));
                format!(
                    "{}ServerName volume.test\nListen 127.0.0.1:{port}\nPidFile {own}/pid\nErrorLog {own}/log\n\
                     DefaultRuntimeDir {own}\nTypesConfig /etc/mime.types\nDocumentRoot {root}\n\
                     <Directory {root}>\nOptions +Indexes +FollowSymLinks\nRequire all granted\n</Directory>\n{rules}\n",
                    modules.concat()
                )
            }
        }
    }

    fn command(self, config: &Path) -> Command {
        let mut command =
            Command::new(if self == Kind::Nginx { "/usr/sbin/nginx" } else { "/usr/sbin/apache2" });
        match self {
            Kind::Nginx => command.arg("-c").arg(config),
            Kind::Apache => command.arg("-DFOREGROUND").arg("-f").arg(config),
        };
        command
    }
}

struct Server {
    process: Child,
    address: SocketAddr,
    root: PathBuf,
}

impl Server {
    /// Serves `root` as this user until it is dropped.
    fn start(kind: Kind, sandbox: &Sandbox, root: &Path, user: u32, rules: &str) -> Server {
        use std::os::unix::process::CommandExt;
        let own = sandbox.directory(&format!("{kind:?}-{user}-{}", rules.len()));
        chown(&own, Some(user), Some(user)).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = own.join("config");
        fs::write(&config, kind.config(address.port(), root, &own, rules)).unwrap();
        let mut command = kind.command(&config);
        let process = command.uid(user).gid(user).stderr(Stdio::null()).spawn().unwrap();
        let server = Server { process, address, root: root.to_owned() };
        // Written once it listens.
        eventually("a web server", || fs::read(own.join("pid")).is_ok_and(|pid| !pid.is_empty()));
        server
    }

    fn get(&self, path: &str) -> Answer {
        get(self.address, &format!("/{path}"))
    }

    /// All that is below `.volseed`, as it is on the volume, and in other spellings.
    fn paths_of_ours(&self) -> Vec<String> {
        let (mut found, mut open) = (Vec::new(), vec![self.root.join(".volseed")]);
        while let Some(path) = open.pop() {
            let name = path.strip_prefix(&self.root).unwrap().display().to_string();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                found.push(format!("{name}/"));
            }
            found.extend([name.clone(), name.replace(".volseed", "%2evolseed"), format!("./{name}")]);
        }
        found
    }

    #[track_caller]
    fn tells_nothing(&self) {
        for path in self.paths_of_ours() {
            let answer = self.get(&path);
            let is_public =
                answer.status == 200 && path.trim_start_matches("./").replace("%2e", ".") == PUBLIC;
            assert!(is_public || answer.status >= 300 || path.ends_with('/'), "{path}: {answer:?}");
            let told = SECRETS.iter().find(|secret| answer.status == 200 && answer.body.contains(*secret));
            assert!(told.is_none(), "{told:?} in {path}: {answer:?}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Workers of both end with their parent's SIGTERM, not with its death.
        let pid = nix::unistd::Pid::from_raw(self.process.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
        self.process.wait().ok();
    }
}

fn site() -> Tree {
    Tree::new().file(SENTINEL, "7").file("top-secret.html", "hello").file("hidden/app.ini", "x=1")
}

fn start(sandbox: &Sandbox, volume: &Path) -> Volseed {
    let source = sandbox.path("source");
    let source = if source.exists() { source } else { site().write_to(&source) };
    seed(source, volume).option("--seed-version", "7.4.2-rc1").option("--sentinel", SENTINEL)
}

#[test]
fn a_server_of_another_user_tells_nothing_of_a_complete_volume() {
    for kind in Kind::all() {
        let sandbox = Sandbox::new();
        let volume = sandbox.volume();
        start(&sandbox, &volume).ends().exits(0);
        let server = Server::start(kind, &sandbox, &volume, APP, "");
        assert_eq!(server.get("top-secret.html").body, "hello");
        server.tells_nothing();
    }
}

#[test]
fn a_server_of_another_user_tells_nothing_of_a_seed_under_way() {
    for kind in Kind::all() {
        let sandbox = Sandbox::new();
        let volume = sandbox.volume();
        let seeding = seed("-", &volume).option("--seed-version", "7.4.2-rc1").fed().start();
        seeding.feed(&site().archive()[..10 << 9]);
        eventually("a file in the stage", || staged(&volume) > 0);
        Server::start(kind, &sandbox, &volume, APP, "").tells_nothing();
        drop(seeding);
        Server::start(kind, &sandbox, &volume, APP, " ").tells_nothing();
    }
}

/// The rules of docs/security.md, as they are there.
fn rules(kind: Kind) -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md")).unwrap();
    let fence = if kind == Kind::Nginx { "```nginx\n" } else { "```apache\n" };
    let (_, rest) = page.split_once(fence).expect("docs/security.md has rules for both");
    rest.split_once("```").unwrap().0.to_owned()
}

#[test]
fn with_the_rules_of_the_docs_a_server_of_the_same_user_tells_nothing() {
    for kind in Kind::all() {
        let sandbox = Sandbox::new();
        let volume = sandbox.volume_of(APP);
        start(&sandbox, &volume).started_by(APP, APP).ends().exits(0);
        fs::create_dir_all(volume.join("hidden/.volseed-0123456789abcdef/tree")).unwrap();
        fs::write(volume.join("hidden/.volseed-0123456789abcdef/tree/a"), "a").unwrap();
        let server = Server::start(kind, &sandbox, &volume, APP, &rules(kind));
        assert_eq!(server.get("top-secret.html").body, "hello");
        assert_eq!(server.get("hidden/app.ini").body, "x=1");
        server.tells_nothing();
        for path in ["hidden/.volseed-0123456789abcdef/tree/a", ".volseed/state.json", ".VolSeed/state.json"]
        {
            assert!(matches!(server.get(path).status, 403 | 404), "{kind:?} {path}");
        }
        for path in server.paths_of_ours() {
            assert!(server.get(&path).status >= 300, "{kind:?} {path}");
        }
    }
}
