# Functions of .ci/run that touch nothing outside: they read text, and count. tests/test_ci.py
# sources this file. Nothing here may install, remove or start anything by itself.
# shellcheck shell=bash

passed=0 failed=0 skipped=0 broken=() under_way=()

# The one command in the first fenced block under heading $1 of file $2.
readme_command() {
  awk -v h="$1" '$0==h{on=1;next} on&&/^## /{exit} on&&/^```/{if(f){exit}f=1;next} on&&f' "$2"
}

# Trial's log on standard input -> "passed failed skipped"; fails if it has no summary.
# The last summary counts: tests that run trial themselves may have printed others before.
count_trial() {
  awk '
    /^Ran [0-9]+ tests? in / { ran = $2; summary = "" }
    /^(PASSED|FAILED)( \(.*\))?[[:space:]]*$/ { if (ran != "") summary = $0 }
    function n(key,   m) {
      return match(summary, "[(, ]" key "=[0-9]+") ? substr(summary, RSTART + length(key) + 2, RLENGTH - length(key) - 2) + 0 : 0
    }
    END {
      if (summary == "") exit 1
      print n("successes") + n("expectedFailures"), n("failures") + n("errors") + n("unexpectedSuccesses"), n("skips")
    }'
}

# "passed failed skipped" on standard input -> their sum; 0 if there is nothing.
count_all() { awk '{ n += $1 + $2 + $3 } END { print n + 0 }'; }

# JUnit file $1 -> "passed failed skipped"; fails if it can't be read.
count_junit() {
  python3 - "$1" <<'PY'
import sys
import xml.etree.ElementTree as tree

try:
    root = tree.parse(sys.argv[1]).getroot()
except (OSError, tree.ParseError) as error:
    sys.exit(f"{sys.argv[1]}: {error}")
failed = skipped = passed = 0
for case in root.iter("testcase"):
    kinds = {child.tag for child in case}
    if kinds & {"failure", "error"}:
        failed += 1
    elif "skipped" in kinds:
        skipped += 1
    else:
        passed += 1
print(passed, failed, skipped)
PY
}

# Adds "passed failed skipped" to the totals.
add() {
  passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

# Runs stage $1 (a function stage_$1), described by the rest; remembers whether it failed.
stage() {
  local name=$1 start=$SECONDS
  shift
  echo
  echo "=== $name: $*"
  if "stage_$name"; then
    echo "=== $name: held ($((SECONDS - start)) s)"
  else
    echo "=== $name: FAILED ($((SECONDS - start)) s)"
    broken+=("$name")
  fi
}

# Starts stage $2, described by the rest, beside whatever else runs; what it prints and counts is
# kept in folder $1 until `join`.
beside() {
  local folder=$1 name=$2
  shift
  (
    passed=0 failed=0 skipped=0 broken=()
    stage "$@"
    echo "$passed $failed $skipped ${#broken[@]}" >"$folder/$name.came"
  ) </dev/null >"$folder/$name.said" 2>&1 &
  under_way+=("$! $folder $name")
}

# Waits for the stages that `beside` has started; each one's output comes as one block, in the order
# of the starts.
join() {
  local one pid folder name p f s bad
  for one in "${under_way[@]}"; do
    read -r pid folder name <<<"$one"
    wait "$pid"
    cat "$folder/$name.said"
    if read -r p f s bad 2>/dev/null <"$folder/$name.came"; then
      add "$p" "$f" "$s"
      [ "$bad" = 0 ] || broken+=("$name")
    else
      echo "=== $name: FAILED: it broke off"
      broken+=("$name")
    fi
  done
  under_way=()
}

# Prints the stages that failed and, as the last line, the count; fails unless all held and tests ran.
finish() {
  local status=0
  echo
  if [ "${#broken[@]}" -gt 0 ]; then
    echo "failed stages: ${broken[*]}"
    status=1
  fi
  if [ "$failed" != 0 ] || [ $((passed + failed)) = 0 ]; then
    status=1
  fi
  echo "$passed passed, $failed failed, $skipped skipped"
  return "$status"
}
