"""Makes the next patch release of a WordPress: its version and its database's version are one higher, files differ.

Every style sheet and every PHP file of wp-includes changes, and so does a theme and .htaccess, which a user may have
changed too; one directory is added, one is removed.
"""

import glob
import os
import re
import shutil
import sys

os.chdir(sys.argv[1])


def rewrite(path: str, pattern: str, new) -> None:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        text, count = re.subn(pattern, new, file.read(), count=1)
    assert count == 1, f"{path} has no {pattern}"
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


for path in glob.glob("wp-includes/*.php"):
    rewrite(path, r"^<\?php", "<?php // The next release.")
for path in glob.glob("wp-admin/css/*.css") + glob.glob("wp-content/themes/*/style.css") + [".htaccess"]:
    with open(path, "a") as file:
        file.write("\n# The next release\n" if path == ".htaccess" else "\n/* The next release */\n")
rewrite("wp-includes/version.php", r"(?<=\$wp_version = ')[\d.]+", lambda found: re.sub(r"\d+$", lambda patch: str(int(patch[0]) + 1), found[0]))
rewrite("wp-includes/version.php", r"(?<=\$wp_db_version = )\d+", lambda found: str(int(found[0]) + 1))
os.mkdir("wp-includes/next")
for number in range(40):
    with open(f"wp-includes/next/{number}.php", "w") as file:
        file.write("<?php // New in this release.\n")
shutil.rmtree("wp-includes/ID3")
