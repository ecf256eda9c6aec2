#!/bin/sh
# Builds volseed, seeds a volume under target/ from site/, and becomes app.sh. Needs Rust and a shell.
# Run it twice: the second start finds the volume seeded. Start over: rm -r target/quickstart
set -eu

case "${1:-}" in
-h | --help)
    sed -n '2,3s/^# //p' "$0"
    exit
    ;;
esac

cd "$(dirname "$0")/../.."
cargo build --release --locked
target=${CARGO_TARGET_DIR:-target}
PATH="$(cd "$target" && pwd)/release:$PATH"
mkdir -p "$target/quickstart/volume"

# As in an image, where these stand in ENV: every volseed command then agrees with the entry point.
export VOLSEED_FROM=examples/quickstart/site
export VOLSEED_TO="$target/quickstart/volume"
export VOLSEED_SENTINEL=index.html
export VOLSEED_LISTEN=127.0.0.1:0

echo
echo "\$ volseed -- examples/quickstart/app.sh"
exec volseed -- examples/quickstart/app.sh
