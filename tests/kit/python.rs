//! Guinea-pig apps that need more than a shell: Python is there wherever the benches run.

/// Says every signal that it gets, by number, and who is in its own process group.
pub(crate) const ECHOES_SIGNALS: &str = r#"
import os, signal, sys
every = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, every)
print("ready (pid %d)" % os.getpid(), flush=True)
while True:
    got = signal.sigwait(every)
    print("got %d." % got, flush=True)
    if got == signal.SIGTERM and "patient" not in sys.argv:
        sys.exit(7)
"#;

/// Makes 2,000 orphans that all end at once, and waits until none of them is a zombie.
pub(crate) const ORPHANS: &str = r#"
import os, sys, time
go, gone = os.pipe()
for _ in range(40):
    if os.fork() == 0:
        os.close(gone)
        for _ in range(50):
            if os.fork() == 0:
                os.read(go, 1)
                os._exit(0)
        os._exit(0)
for _ in range(40):
    os.wait()
print("orphans", flush=True)
os.close(gone)
deadline = time.monotonic() + 25
while time.monotonic() < deadline:
    states = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            states.append(open("/proc/%s/stat" % pid).read().rsplit(")", 1)[1].split()[0])
        except OSError:
            pass
    if len(states) < 100 and "Z" not in states:
        print("no zombie", flush=True)
        sys.exit(0)
    time.sleep(0.01)
sys.exit("still there: %d, zombies: %d" % (len(states), states.count("Z")))
"#;

/// Ends itself by the signal that is its argument.
pub(crate) const DIES_OF: &str = r#"
import os, resource, signal, sys
number = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if number not in (signal.SIGKILL, signal.SIGSTOP):
    signal.signal(number, signal.SIG_DFL)
os.kill(os.getpid(), number)
"#;

/// Says who its parent is, and who its orphaned grandchild's.
pub(crate) const ORPHAN: &str = r#"
import os, time
print(os.getppid(), flush=True)
told, tell = os.pipe()
if os.fork() == 0:
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent:
            time.sleep(0.001)
        os.write(tell, str(os.getppid()).encode())
    os._exit(0)
print(os.read(told, 20).decode())
"#;
