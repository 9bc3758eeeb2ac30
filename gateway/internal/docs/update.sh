#!/bin/sh
# Takes the viewer from a release of swagger-ui-dist: sh update.sh 5.35.0
# Look at the page afterwards, in light and dark, and at the tests of the gateway.
set -eu
cd "$(dirname "$0")"
version=${1:?the version, as 5.35.0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && npm pack --silent "swagger-ui-dist@$version" >/dev/null && tar xzf ./*.tgz)
mkdir -p viewer
for file in swagger-ui-bundle.js swagger-ui.css; do
    sed '/^\/[/*]# sourceMappingURL=/d' "$work/package/$file" | gzip -9n >"viewer/$file.gz"
done
cp "$work/package/LICENSE" "$work/package/NOTICE" "$work/package/swagger-ui-bundle.js.LICENSE.txt" viewer/
echo "$version" >viewer/VERSION
