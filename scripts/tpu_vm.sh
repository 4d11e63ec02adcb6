#!/usr/bin/env bash
# Runs one command on a Cloud TPU VM that exists for as long as it takes; --help says how.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/tpu_vm.sh --name NAME --zone ZONE --type TYPE [OPTIONS] -- COMMAND...

Creates a Cloud TPU VM, copies the project to every host of it, installs the extra `tpu`, runs COMMAND on all hosts at
once, fetches the run folders of the first one, and deletes the VM, also after an error or Ctrl-C. You need gcloud,
logged in, and a project with the quota.

  --name NAME        of the VM
  --zone ZONE        such as us-west4-a
  --type TYPE        accelerator type: v5litepod-8 is one host, v5litepod-16 a slice of four
  --version VERSION  software of the VM; by default v2-alpha-tpuv5-lite
  --project PROJECT  of Google Cloud; by default gcloud's own
  --spot             cheaper, and may be taken away
  --source SOURCE    folder of a Git checkout, whose last commit is copied (by default this one), or a URL to clone
  --python VERSION   of Python on the VM, 3.11 to 3.13; by default 3.12
  --to DIR           where run folders are fetched to; by default here, which makes ./runs
  --keep             do not delete the VM; a further call with --keep goes on with it
  --dry-run          print every gcloud command and run none
  --help

Example:
  scripts/tpu_vm.sh --name grpo --zone us-west4-a --type v5litepod-8 -- \
    python run_training.py mesh=data8 run_dir=runs/first
TEXT
}

fail() {
  echo "tpu_vm.sh: $1; see scripts/tpu_vm.sh --help" >&2
  exit 2
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
name='' zone='' type='' version=v2-alpha-tpuv5-lite project='' source="$root" python=3.12 to=. spot='' keep='' dry_run=''

while [ $# -gt 0 ]; do
  case "$1" in
    --name | --zone | --type | --version | --project | --source | --python | --to)
      [ $# -ge 2 ] || fail "$1 needs a value"
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    --spot) spot=yes; shift ;;
    --keep) keep=yes; shift ;;
    --dry-run) dry_run=yes; shift ;;
    --help) usage; exit 0 ;;
    --) shift; break ;;
    *) fail "unknown option $1" ;;
  esac
done
for option in name zone type; do
  [ -n "${!option}" ] || fail "--$option is missing"
done
[ $# -gt 0 ] || fail "no command; give it behind --"
case "$source" in
  *://* | git@*) ;;
  *) git -C "$source" rev-parse --verify --quiet HEAD >/dev/null || fail "$source is no Git checkout" ;;
esac
[ -n "$dry_run" ] || command -v gcloud >/dev/null || fail "gcloud is not installed"

where=(--zone "$zone")
[ -z "$project" ] || where+=(--project "$project")

# Prints a command, and runs it unless this is a dry run.
run() {
  printf '+' >&2
  printf ' %q' "$@" >&2
  printf '\n' >&2
  [ -n "$dry_run" ] || "$@"
}

on_all_hosts() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker all --command "$1"
}

packed=''
# shellcheck disable=SC2329  # the trap calls it
finish() {
  status=$?
  trap - EXIT INT TERM
  [ -z "$packed" ] || rm -f "$packed"
  if [ -z "$keep" ]; then
    run gcloud compute tpus tpu-vm delete "$name" "${where[@]}" --quiet ||
      echo "tpu_vm.sh: $name may still exist and cost money; look with gcloud compute tpus tpu-vm list --zone $zone" >&2
  fi
  exit "$status"
}

exists() {
  [ -z "$dry_run" ] && [ -n "$keep" ] && gcloud compute tpus tpu-vm describe "$name" "${where[@]}" >/dev/null 2>&1
}

# Before the VM is there: one that was created half has to go, too.
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

exists || run gcloud compute tpus tpu-vm create "$name" "${where[@]}" --accelerator-type "$type" --version "$version" \
  ${spot:+--spot}

case "$source" in
  *://* | git@*)
    on_all_hosts "rm -rf agent_tunix/src && mkdir -p agent_tunix && git clone --depth 1 $(printf %q "$source") clone \
&& cp -a clone/. agent_tunix && rm -rf clone"
    ;;
  *)
    packed="$(mktemp --suffix .tar.gz)"
    git -C "$source" archive --format tar.gz --output "$packed" HEAD
    run gcloud compute tpus tpu-vm scp "$packed" "$name:agent_tunix.tar.gz" "${where[@]}" --worker all
    on_all_hosts "mkdir -p agent_tunix && tar -xzf agent_tunix.tar.gz -C agent_tunix"
    ;;
esac

# The image's own Python is older than the package wants.
on_all_hosts "cd agent_tunix && python3 -m pip install --quiet --user uv && export PATH=\$HOME/.local/bin:\$PATH \
&& { [ -d .venv ] || uv venv --quiet --python $(printf %q "$python"); } \
&& uv pip install --quiet --constraint constraints.txt --editable '.[tpu]'"

words="$(printf ' %q' "$@")"
status=0
on_all_hosts "cd agent_tunix && export PATH=\$PWD/.venv/bin:\$PATH &&$words" || status=$?
run gcloud compute tpus tpu-vm scp --recurse "$name:agent_tunix/runs" "$to" "${where[@]}" --worker 0 ||
  echo "tpu_vm.sh: there are no run folders to fetch" >&2
exit "$status"
