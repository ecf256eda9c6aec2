# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_volseed_global_optspecs
    string join \n h/help V/version
end

function __fish_volseed_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_volseed_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_volseed_using_subcommand
    set -l cmd (__fish_volseed_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c volseed -n "__fish_volseed_needs_command" -s h -l help -d 'Print help'
complete -c volseed -n "__fish_volseed_needs_command" -s V -l version -d 'Print version'
complete -c volseed -n "__fish_volseed_needs_command" -f -a "run" -d 'Seed the volume if needed, then become CMD (the default)'
complete -c volseed -n "__fish_volseed_needs_command" -f -a "seed" -d 'Seed the volume if needed, then exit'
complete -c volseed -n "__fish_volseed_needs_command" -f -a "wait" -d 'Never seed: exit, or become CMD, once the volume is seeded'
complete -c volseed -n "__fish_volseed_needs_command" -f -a "health" -d 'Check the health of this container: exit 0 or 1'
complete -c volseed -n "__fish_volseed_needs_command" -f -a "status" -d 'Print what is recorded about the volume'
complete -c volseed -n "__fish_volseed_needs_command" -f -a "verify" -d 'Compare the volume with what was seeded: exit 0 or 1'
complete -c volseed -n "__fish_volseed_needs_command" -f -a "repair" -d 'Put back what is missing on a seeded volume'
complete -c volseed -n "__fish_volseed_needs_command" -f -a "plan" -d 'Print what a start would do, and do nothing: exit 0, 1 or 78'
complete -c volseed -n "__fish_volseed_needs_command" -f -a "doctor" -d 'Look at what the volume keeps and what a seed would cost: exit 0 or 1'
complete -c volseed -n "__fish_volseed_needs_command" -f -a "install" -d 'Copy this binary to a directory that another container mounts'
complete -c volseed -n "__fish_volseed_using_subcommand run" -l to -d 'Root of the volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand run" -l state-dir -d 'Where volseed keeps its state' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand run" -l sentinel -d 'File that marks a seeded volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand run" -l seed-version -d 'Version of the seed' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l lock -d 'auto, lease or none' -r -f -a "auto\t'By the file system: its lock where all replicas see it, and heartbeats'
lease\t'By heartbeats alone'
none\t'Not at all: there is no other replica'"
complete -c volseed -n "__fish_volseed_using_subcommand run" -l wait-timeout -d 'Maximum wait for a replica' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l config -d 'TOML file [/etc/volseed.toml]' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand run" -l from -d 'Directory, archive, - for stdin' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand run" -l exclude -d 'Entries to exclude' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l existing -d 'keep, overwrite or fail' -r -f -a "keep\t'They stay; the seed\'s are left out'
overwrite\t'The seed\'s replace them'
fail\t'The volume is refused unless it is empty'"
complete -c volseed -n "__fish_volseed_using_subcommand run" -l adopt -d 'as-is, complete or refuse' -r -f -a "as-is\t'It is adopted, with a warning'
complete\t'What it lacks is put there first'
refuse\t'It is refused'"
complete -c volseed -n "__fish_volseed_using_subcommand run" -l chown -d 'Owner of everything seeded' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l chmod -d 'Mode of everything seeded' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l no-times -d 'Do not set modification times' -r -f -a "true\t''
false\t''"
complete -c volseed -n "__fish_volseed_using_subcommand run" -l strict -d 'Fail if something is not kept' -r -f -a "true\t''
false\t''"
complete -c volseed -n "__fish_volseed_using_subcommand run" -l workers -d 'Writers, or auto' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l memory -d 'Memory in flight' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l max-entries -d 'Maximum number of entries' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l upgrade -d 'Versions to upgrade from' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l rollback-from -d 'Version to take back' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l keep -d 'User\'s changes that stay' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l protect -d 'Paths not to upgrade' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l max-delete -d 'Maximum removals, in percent' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l hook -d 'Program called around seeds' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand run" -l listen -d 'Health server, such as :80' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l listen-mode -d 'Unix sockets\' mode' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l listen-owner -d 'Unix sockets\' owner' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l live-path -d 'Live paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l ready-path -d 'Readiness paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l started-path -d 'Startup paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l seeding-status -d 'Answer on other paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l metrics-path -d 'Metrics path' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l page -d 'HTML for browsers' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand run" -l stall -d 'Not live when stalled' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l app-check -d 'http://…, tcp:PORT, none' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l admin -d 'Health for the app\'s life' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l user -d 'User that the app runs as' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l only-for -d 'Seed only if CMD matches' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l pass-socket -d 'listen-fds, nginx, php-fpm' -r -f -a "listen-fds\t'`LISTEN_FDS` and `LISTEN_PID`, as systemd does (sd_listen_fds(3))'
nginx\t'`NGINX`, as an nginx hands them to its successor'
php-fpm\t'`FPM_SOCKETS`, as a php-fpm hands them to its successor'"
complete -c volseed -n "__fish_volseed_using_subcommand run" -l supervise -d 'Stay as the app\'s init' -r -f -a "true\t''
false\t''"
complete -c volseed -n "__fish_volseed_using_subcommand run" -l grace -d 'Grace after SIGTERM' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l stop-signal -d 'Signal that stops the app' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l signal-scope -d 'group or child' -r -f -a "group\t'The app\'s process group'
child\t'The app\'s main process alone'"
complete -c volseed -n "__fish_volseed_using_subcommand run" -l rewrite -d 'Forward a signal as another' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l exit-map -d 'Exit with another code' -r
complete -c volseed -n "__fish_volseed_using_subcommand run" -l log -d 'text or json' -r -f -a "text\t'For people'
json\t'One JSON object a line'"
complete -c volseed -n "__fish_volseed_using_subcommand run" -l log-level -d 'error, warn, info, debug' -r -f -a "error\t''
warn\t''
info\t''
debug\t''"
complete -c volseed -n "__fish_volseed_using_subcommand run" -l progress -d 'auto or none' -r -f -a "auto\t'On a terminal'
none\t'Never'"
complete -c volseed -n "__fish_volseed_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l to -d 'Root of the volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l state-dir -d 'Where volseed keeps its state' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l sentinel -d 'File that marks a seeded volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l seed-version -d 'Version of the seed' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l lock -d 'auto, lease or none' -r -f -a "auto\t'By the file system: its lock where all replicas see it, and heartbeats'
lease\t'By heartbeats alone'
none\t'Not at all: there is no other replica'"
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l wait-timeout -d 'Maximum wait for a replica' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l config -d 'TOML file [/etc/volseed.toml]' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l from -d 'Directory, archive, - for stdin' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l exclude -d 'Entries to exclude' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l existing -d 'keep, overwrite or fail' -r -f -a "keep\t'They stay; the seed\'s are left out'
overwrite\t'The seed\'s replace them'
fail\t'The volume is refused unless it is empty'"
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l adopt -d 'as-is, complete or refuse' -r -f -a "as-is\t'It is adopted, with a warning'
complete\t'What it lacks is put there first'
refuse\t'It is refused'"
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l chown -d 'Owner of everything seeded' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l chmod -d 'Mode of everything seeded' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l no-times -d 'Do not set modification times' -r -f -a "true\t''
false\t''"
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l strict -d 'Fail if something is not kept' -r -f -a "true\t''
false\t''"
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l workers -d 'Writers, or auto' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l memory -d 'Memory in flight' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l max-entries -d 'Maximum number of entries' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l upgrade -d 'Versions to upgrade from' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l rollback-from -d 'Version to take back' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l keep -d 'User\'s changes that stay' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l protect -d 'Paths not to upgrade' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l max-delete -d 'Maximum removals, in percent' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l hook -d 'Program called around seeds' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l listen -d 'Health server, such as :80' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l listen-mode -d 'Unix sockets\' mode' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l listen-owner -d 'Unix sockets\' owner' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l live-path -d 'Live paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l ready-path -d 'Readiness paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l started-path -d 'Startup paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l seeding-status -d 'Answer on other paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l metrics-path -d 'Metrics path' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l page -d 'HTML for browsers' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l stall -d 'Not live when stalled' -r
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l log -d 'text or json' -r -f -a "text\t'For people'
json\t'One JSON object a line'"
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l log-level -d 'error, warn, info, debug' -r -f -a "error\t''
warn\t''
info\t''
debug\t''"
complete -c volseed -n "__fish_volseed_using_subcommand seed" -l progress -d 'auto or none' -r -f -a "auto\t'On a terminal'
none\t'Never'"
complete -c volseed -n "__fish_volseed_using_subcommand seed" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l to -d 'Root of the volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l state-dir -d 'Where volseed keeps its state' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l sentinel -d 'File that marks a seeded volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l seed-version -d 'Version of the seed' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l lock -d 'auto, lease or none' -r -f -a "auto\t'By the file system: its lock where all replicas see it, and heartbeats'
lease\t'By heartbeats alone'
none\t'Not at all: there is no other replica'"
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l wait-timeout -d 'Maximum wait for a replica' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l config -d 'TOML file [/etc/volseed.toml]' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l upgrade -d 'Versions to upgrade from' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l rollback-from -d 'Version to take back' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l listen -d 'Health server, such as :80' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l listen-mode -d 'Unix sockets\' mode' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l listen-owner -d 'Unix sockets\' owner' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l live-path -d 'Live paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l ready-path -d 'Readiness paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l started-path -d 'Startup paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l seeding-status -d 'Answer on other paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l metrics-path -d 'Metrics path' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l page -d 'HTML for browsers' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l stall -d 'Not live when stalled' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l app-check -d 'http://…, tcp:PORT, none' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l admin -d 'Health for the app\'s life' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l user -d 'User that the app runs as' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l only-for -d 'Seed only if CMD matches' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l pass-socket -d 'listen-fds, nginx, php-fpm' -r -f -a "listen-fds\t'`LISTEN_FDS` and `LISTEN_PID`, as systemd does (sd_listen_fds(3))'
nginx\t'`NGINX`, as an nginx hands them to its successor'
php-fpm\t'`FPM_SOCKETS`, as a php-fpm hands them to its successor'"
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l supervise -d 'Stay as the app\'s init' -r -f -a "true\t''
false\t''"
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l grace -d 'Grace after SIGTERM' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l stop-signal -d 'Signal that stops the app' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l signal-scope -d 'group or child' -r -f -a "group\t'The app\'s process group'
child\t'The app\'s main process alone'"
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l rewrite -d 'Forward a signal as another' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l exit-map -d 'Exit with another code' -r
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l log -d 'text or json' -r -f -a "text\t'For people'
json\t'One JSON object a line'"
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l log-level -d 'error, warn, info, debug' -r -f -a "error\t''
warn\t''
info\t''
debug\t''"
complete -c volseed -n "__fish_volseed_using_subcommand wait" -l progress -d 'auto or none' -r -f -a "auto\t'On a terminal'
none\t'Never'"
complete -c volseed -n "__fish_volseed_using_subcommand wait" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c volseed -n "__fish_volseed_using_subcommand health" -l timeout -d 'Timeout' -r
complete -c volseed -n "__fish_volseed_using_subcommand health" -l app-check -d 'http://…, tcp:PORT, none' -r
complete -c volseed -n "__fish_volseed_using_subcommand health" -l admin -d 'Health for the app\'s life' -r
complete -c volseed -n "__fish_volseed_using_subcommand health" -l listen -d 'Health server, such as :80' -r
complete -c volseed -n "__fish_volseed_using_subcommand health" -l listen-mode -d 'Unix sockets\' mode' -r
complete -c volseed -n "__fish_volseed_using_subcommand health" -l listen-owner -d 'Unix sockets\' owner' -r
complete -c volseed -n "__fish_volseed_using_subcommand health" -l live-path -d 'Live paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand health" -l ready-path -d 'Readiness paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand health" -l started-path -d 'Startup paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand health" -l seeding-status -d 'Answer on other paths' -r
complete -c volseed -n "__fish_volseed_using_subcommand health" -l metrics-path -d 'Metrics path' -r
complete -c volseed -n "__fish_volseed_using_subcommand health" -l page -d 'HTML for browsers' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand health" -l stall -d 'Not live when stalled' -r
complete -c volseed -n "__fish_volseed_using_subcommand health" -l config -d 'TOML file [/etc/volseed.toml]' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand health" -l live -d 'Is it alive? (the default)'
complete -c volseed -n "__fish_volseed_using_subcommand health" -l started -d 'Is the app started?'
complete -c volseed -n "__fish_volseed_using_subcommand health" -l ready -d 'Is the app ready?'
complete -c volseed -n "__fish_volseed_using_subcommand health" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c volseed -n "__fish_volseed_using_subcommand status" -l to -d 'Root of the volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand status" -l state-dir -d 'Where volseed keeps its state' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand status" -l sentinel -d 'File that marks a seeded volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand status" -l seed-version -d 'Version of the seed' -r
complete -c volseed -n "__fish_volseed_using_subcommand status" -l lock -d 'auto, lease or none' -r -f -a "auto\t'By the file system: its lock where all replicas see it, and heartbeats'
lease\t'By heartbeats alone'
none\t'Not at all: there is no other replica'"
complete -c volseed -n "__fish_volseed_using_subcommand status" -l wait-timeout -d 'Maximum wait for a replica' -r
complete -c volseed -n "__fish_volseed_using_subcommand status" -l config -d 'TOML file [/etc/volseed.toml]' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand status" -l json -d 'One JSON document, for machines'
complete -c volseed -n "__fish_volseed_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c volseed -n "__fish_volseed_using_subcommand verify" -l to -d 'Root of the volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand verify" -l state-dir -d 'Where volseed keeps its state' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand verify" -l sentinel -d 'File that marks a seeded volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand verify" -l seed-version -d 'Version of the seed' -r
complete -c volseed -n "__fish_volseed_using_subcommand verify" -l lock -d 'auto, lease or none' -r -f -a "auto\t'By the file system: its lock where all replicas see it, and heartbeats'
lease\t'By heartbeats alone'
none\t'Not at all: there is no other replica'"
complete -c volseed -n "__fish_volseed_using_subcommand verify" -l wait-timeout -d 'Maximum wait for a replica' -r
complete -c volseed -n "__fish_volseed_using_subcommand verify" -l config -d 'TOML file [/etc/volseed.toml]' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand verify" -l digest -d 'Read the data of every file, instead of only its size and time'
complete -c volseed -n "__fish_volseed_using_subcommand verify" -l json -d 'One JSON object on each line, for machines'
complete -c volseed -n "__fish_volseed_using_subcommand verify" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l to -d 'Root of the volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l state-dir -d 'Where volseed keeps its state' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l sentinel -d 'File that marks a seeded volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l seed-version -d 'Version of the seed' -r
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l lock -d 'auto, lease or none' -r -f -a "auto\t'By the file system: its lock where all replicas see it, and heartbeats'
lease\t'By heartbeats alone'
none\t'Not at all: there is no other replica'"
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l wait-timeout -d 'Maximum wait for a replica' -r
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l config -d 'TOML file [/etc/volseed.toml]' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l from -d 'Directory, archive, - for stdin' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l exclude -d 'Entries to exclude' -r
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l existing -d 'keep, overwrite or fail' -r -f -a "keep\t'They stay; the seed\'s are left out'
overwrite\t'The seed\'s replace them'
fail\t'The volume is refused unless it is empty'"
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l adopt -d 'as-is, complete or refuse' -r -f -a "as-is\t'It is adopted, with a warning'
complete\t'What it lacks is put there first'
refuse\t'It is refused'"
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l chown -d 'Owner of everything seeded' -r
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l chmod -d 'Mode of everything seeded' -r
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l no-times -d 'Do not set modification times' -r -f -a "true\t''
false\t''"
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l strict -d 'Fail if something is not kept' -r -f -a "true\t''
false\t''"
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l workers -d 'Writers, or auto' -r
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l memory -d 'Memory in flight' -r
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l max-entries -d 'Maximum number of entries' -r
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l log -d 'text or json' -r -f -a "text\t'For people'
json\t'One JSON object a line'"
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l log-level -d 'error, warn, info, debug' -r -f -a "error\t''
warn\t''
info\t''
debug\t''"
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l progress -d 'auto or none' -r -f -a "auto\t'On a terminal'
none\t'Never'"
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l modified -d 'Also replace what differs; what it replaces is kept in `.volseed/old`'
complete -c volseed -n "__fish_volseed_using_subcommand repair" -l digest -d 'Read the data of every file to find what differs, instead of only its size and time'
complete -c volseed -n "__fish_volseed_using_subcommand repair" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l to -d 'Root of the volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l state-dir -d 'Where volseed keeps its state' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l sentinel -d 'File that marks a seeded volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l seed-version -d 'Version of the seed' -r
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l lock -d 'auto, lease or none' -r -f -a "auto\t'By the file system: its lock where all replicas see it, and heartbeats'
lease\t'By heartbeats alone'
none\t'Not at all: there is no other replica'"
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l wait-timeout -d 'Maximum wait for a replica' -r
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l config -d 'TOML file [/etc/volseed.toml]' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l from -d 'Directory, archive, - for stdin' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l exclude -d 'Entries to exclude' -r
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l existing -d 'keep, overwrite or fail' -r -f -a "keep\t'They stay; the seed\'s are left out'
overwrite\t'The seed\'s replace them'
fail\t'The volume is refused unless it is empty'"
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l adopt -d 'as-is, complete or refuse' -r -f -a "as-is\t'It is adopted, with a warning'
complete\t'What it lacks is put there first'
refuse\t'It is refused'"
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l chown -d 'Owner of everything seeded' -r
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l chmod -d 'Mode of everything seeded' -r
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l no-times -d 'Do not set modification times' -r -f -a "true\t''
false\t''"
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l strict -d 'Fail if something is not kept' -r -f -a "true\t''
false\t''"
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l workers -d 'Writers, or auto' -r
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l memory -d 'Memory in flight' -r
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l max-entries -d 'Maximum number of entries' -r
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l upgrade -d 'Versions to upgrade from' -r
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l rollback-from -d 'Version to take back' -r
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l keep -d 'User\'s changes that stay' -r
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l protect -d 'Paths not to upgrade' -r
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l max-delete -d 'Maximum removals, in percent' -r
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l hook -d 'Program called around seeds' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand plan" -l json -d 'One JSON object per line'
complete -c volseed -n "__fish_volseed_using_subcommand plan" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l to -d 'Root of the volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l state-dir -d 'Where volseed keeps its state' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l sentinel -d 'File that marks a seeded volume' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l seed-version -d 'Version of the seed' -r
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l lock -d 'auto, lease or none' -r -f -a "auto\t'By the file system: its lock where all replicas see it, and heartbeats'
lease\t'By heartbeats alone'
none\t'Not at all: there is no other replica'"
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l wait-timeout -d 'Maximum wait for a replica' -r
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l config -d 'TOML file [/etc/volseed.toml]' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l from -d 'Directory, archive, - for stdin' -r -F
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l exclude -d 'Entries to exclude' -r
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l existing -d 'keep, overwrite or fail' -r -f -a "keep\t'They stay; the seed\'s are left out'
overwrite\t'The seed\'s replace them'
fail\t'The volume is refused unless it is empty'"
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l adopt -d 'as-is, complete or refuse' -r -f -a "as-is\t'It is adopted, with a warning'
complete\t'What it lacks is put there first'
refuse\t'It is refused'"
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l chown -d 'Owner of everything seeded' -r
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l chmod -d 'Mode of everything seeded' -r
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l no-times -d 'Do not set modification times' -r -f -a "true\t''
false\t''"
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l strict -d 'Fail if something is not kept' -r -f -a "true\t''
false\t''"
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l workers -d 'Writers, or auto' -r
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l memory -d 'Memory in flight' -r
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l max-entries -d 'Maximum number of entries' -r
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l peer -d 'Wait for a second doctor on this volume'
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -l json -d 'One JSON object per line'
complete -c volseed -n "__fish_volseed_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c volseed -n "__fish_volseed_using_subcommand install" -s h -l help -d 'Print help'
