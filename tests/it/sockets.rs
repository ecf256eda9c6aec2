//! The sockets that probes come in by: addresses, files, and who has them after the hand-over.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use crate::kit::http::{self, closed_port};
use crate::kit::sandbox::PROBE_ID;
use crate::kit::{Sandbox, Tree, Volseed, needs, run, seed, volseed};

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[test]
fn a_port_alone_is_listened_on_by_ipv6_too() {
    if !has_ipv6() {
        return;
    }
    let sandbox = Sandbox::new();
    let port = closed_port();
    let running = seed("-", sandbox.volume()).fed().option("--listen", format!(":{port}")).start();
    let addresses = running.addresses(2);
    assert_eq!(addresses, [format!("0.0.0.0:{port}"), format!("[::]:{port}")].map(|it| it.parse().unwrap()));
    assert_eq!(http::get((Ipv6Addr::LOCALHOST, port).into(), "/livez").status, 200);
    volseed(["health", "--listen", &format!(":{port}")]).ends().exits(0);
}

#[test]
fn an_ipv6_address_that_is_named_takes_the_place_of_the_implied_one() {
    if !has_ipv6() {
        return;
    }
    let sandbox = Sandbox::new();
    for named in ["[::]", "[::1]"] {
        let port = closed_port();
        let listen = format!(":{port},{named}:{port}");
        let running = seed("-", sandbox.volume()).fed().option("--listen", &listen).start();
        let addresses = running.addresses(2);
        assert_eq!(addresses[1], format!("{named}:{port}").parse::<SocketAddr>().unwrap());
        assert_eq!(http::get((Ipv6Addr::LOCALHOST, port).into(), "/livez").status, 200);
    }
}

#[test]
fn an_ipv6_port_that_another_has_is_a_warning() {
    if !has_ipv6() {
        return;
    }
    let taken = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let sandbox = Sandbox::new();
    let running = seed("-", sandbox.volume()).fed().option("--listen", format!(":{port}")).start();
    running.says("IPv6 left out");
    assert_eq!(running.get("/livez").status, 200);
}

/// Says what is handed over to it.
const SHOWS: &str = "echo fds:$LISTEN_FDS fpm:$FPM_SOCKETS nginx:$NGINX";

#[test]
fn only_the_ipv4_socket_of_a_port_alone_is_handed_over() {
    let sandbox = Sandbox::on_disk();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let port = closed_port();
    let shown = |listen: &str, how: &str| {
        let start = run(&source, sandbox.volume(), ["sh", "-c", SHOWS]);
        start.option("--listen", listen).option("--pass-socket", how).ends().exits(0).stdout
    };
    assert_eq!(shown(&format!(":{port}"), "listen-fds"), "fds:1 fpm: nginx:\n");
    assert_eq!(shown(&format!(":{port}"), "php-fpm"), format!("fds: fpm:0.0.0.0:{port}=3 nginx:\n"));
    if has_ipv6() {
        assert_eq!(shown(&format!(":{port},[::]:{port}"), "nginx"), "fds: fpm: nginx:3;4;\n");
    }
}

#[test]
fn an_address_that_cannot_be_had_says_what_to_do() {
    let sandbox = Sandbox::new();
    let plain = sandbox.file("plain", "mine").display().to_string();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (listen, help) in [
        ("[2001:db8::1]:80", "IPv6"),
        ("192.0.2.1:80", "no interface"),
        (&taken, "another program listens there"),
        (&plain, "not a socket"),
        ("/nowhere/sock", "make it in the image"),
    ] {
        let outcome = seed("-", sandbox.volume()).option("--listen", listen).ends();
        outcome.fails(71, listen).says(help);
    }
    assert_eq!(fs::read_to_string(plain).unwrap(), "mine");
}

#[test]
fn without_ipv6_a_port_alone_is_ipv4() {
    if !needs::tools(&["python3"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let port = closed_port();
    let start = |listen: &str| {
        let start = seed("-", sandbox.volume()).fed().option("--listen", listen);
        start.under(["python3", "-c", WITHOUT_IPV6]).start()
    };
    let running = start(&format!(":{port}"));
    assert_eq!(running.get("/livez").status, 200);
    assert!(!running.stderr().contains("WARN") && !running.stderr().contains("[::]"), "{}", running.stderr());
    start(&format!("[::]:{port}")).ends().fails(71, "[::]").says("IPv6");
}

/// Executes a command for which there is no IPv6: a filter refuses `socket(AF_INET6, …)`.
const WITHOUT_IPV6: &str = r#"
import ctypes, errno, os, platform, struct, sys
number = {"x86_64": 41, "aarch64": 198}[platform.machine()]
def step(code, yes, no, value): return struct.pack("HBBI", code, yes, no, value)
program = b"".join([
    step(0x20, 0, 0, 0), step(0x15, 0, 3, number), step(0x20, 0, 0, 16), step(0x15, 0, 1, 10),
    step(0x06, 0, 0, 0x00050000 | errno.EAFNOSUPPORT), step(0x06, 0, 0, 0x7fff0000)])
buffer = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure): _fields_ = [("count", ctypes.c_ushort), ("steps", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
filter = Filter(len(program) // 8, ctypes.addressof(buffer))
assert libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// A seed that listens at this path and has not begun.
#[track_caller]
fn listening_at(
    sandbox: &Sandbox,
    path: &Path,
    with: impl FnOnce(Volseed) -> Volseed,
) -> crate::kit::Running {
    let running = with(seed("-", sandbox.volume()).fed().option("--listen", path.to_str().unwrap())).start();
    running.says("listening");
    running
}

#[test]
fn every_user_can_ask_by_a_unix_socket_unless_its_mode_says_otherwise() {
    let sandbox = Sandbox::new();
    let socket = sandbox.path("sock");
    for (mode, expected) in [(None, 0o666), (Some("0660"), 0o660), (Some("600"), 0o600)] {
        let running = listening_at(&sandbox, &socket, |it| match mode {
            Some(mode) => it.option("--listen-mode", mode),
            None => it.under(["sh", "-c", "umask 077; exec \"$@\"", "sh"]),
        });
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o7777, expected);
        volseed(["health", "--listen", socket.to_str().unwrap()]).ends().exits(0);
        running.stopped_by(nix::sys::signal::Signal::SIGTERM).0.exits(143);
        assert!(!socket.exists(), "left behind");
    }
    for mode in ["8", "rw-rw----", "01666"] {
        seed("-", sandbox.volume()).option("--listen-mode", mode).ends().fails(64, "--listen-mode");
    }
}

#[test]
fn a_unix_socket_is_given_to_its_owner() {
    if !needs::root() {
        return;
    }
    let sandbox = Sandbox::new();
    let socket = sandbox.path("sock");
    let owner = format!("{PROBE_ID}:4321");
    let _running = listening_at(&sandbox, &socket, |it| {
        it.env("VOLSEED_LISTEN_OWNER", &owner).env("VOLSEED_LISTEN_MODE", "0660")
    });
    let found = fs::metadata(&socket).unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (PROBE_ID, 4321, 0o660));
    let start = seed("-", sandbox.volume()).option("--listen", ":0").option("--listen-owner", "nosuchuser");
    start.ends().fails(64, "--listen-owner");
}

#[test]
fn a_unix_socket_is_gone_when_the_app_starts_unless_it_is_handed_over() {
    let sandbox = Sandbox::on_disk();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    let socket = sandbox.path("sock");
    // Left by a container that was killed.
    drop(UnixListener::bind(&socket).unwrap());
    let show = format!("[ -S {0} ] && echo there || echo gone", socket.display());
    for supervise in [&[][..], &["--supervise"]] {
        for (passed, shown) in [(&[][..], "gone"), (&["--pass-socket", "nginx"], "there")] {
            let start = run(&source, sandbox.volume(), ["sh", "-c", &show]).arguments(supervise);
            start.arguments(passed).option("--listen", &socket).ends().exits(0).prints(shown);
        }
    }
}

#[test]
fn a_socket_that_another_put_in_the_place_of_ours_stays() {
    let sandbox = Sandbox::new();
    let socket = sandbox.path("sock");
    let running = listening_at(&sandbox, &socket, |it| it);
    fs::remove_file(&socket).unwrap();
    let _other = UnixListener::bind(&socket).unwrap();
    running.stopped_by(nix::sys::signal::Signal::SIGTERM).0.exits(143);
    assert!(UnixStream::connect(&socket).is_ok());
    seed("-", sandbox.volume()).option("--listen", &socket).ends().fails(71, "another program listens there");
}

/// Executes a command as systemd or podman do that has a socket for it.
const ACTIVATES: &str = r#"
import os, socket, sys
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
os.dup2(listener.fileno(), 3, inheritable=True)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="web", LISTEN_PIDFDID="1")
os.execvp(sys.argv[1], sys.argv[1:])
"#;

const ACTIVATED: &str = r#"
import os, stat
def kind(file):
    try: return "socket" if stat.S_ISSOCK(os.fstat(file).st_mode) else "other"
    except OSError: return "closed"
mine = os.environ["LISTEN_PID"] == str(os.getpid())
print(os.environ["LISTEN_FDS"], mine, os.environ["LISTEN_FDNAMES"], kind(3), kind(4))
"#;

#[test]
fn what_came_by_socket_activation_is_the_app_s() {
    if !needs::tools(&["python3"]) {
        return;
    }
    let sandbox = Sandbox::on_disk();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    for supervise in [&[][..], &["--supervise"]] {
        let app = |with: &[&str]| {
            let start = run(&source, sandbox.volume(), ["python3", "-c", ACTIVATED]).arguments(supervise);
            start.arguments(with).under(["python3", "-c", ACTIVATES]).ends().exits(0)
        };
        app(&[]).prints("1 True web socket closed");
        app(&["--listen", "127.0.0.1:0"]).prints("1 True web socket closed");
        app(&["--listen", "127.0.0.1:0", "--pass-socket", "listen-fds"])
            .prints("2 True web:volseed socket socket");
        app(&["--listen", "127.0.0.1:0", "--pass-socket", "nginx"]).prints("1 True web socket socket");
    }
}

#[test]
fn a_listen_pid_that_names_another_is_left_alone() {
    let sandbox = Sandbox::on_disk();
    let source = Tree::sample().write_to(&sandbox.directory("source"));
    for supervise in [&[][..], &["--supervise"]] {
        let start = run(&source, sandbox.volume(), ["sh", "-c", "echo pid:$LISTEN_PID"]).arguments(supervise);
        start.env("LISTEN_PID", "1").env("LISTEN_FDS", "1").ends().exits(0).prints("pid:1");
    }
}
