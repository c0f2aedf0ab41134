#!/usr/bin/env bash
# Trains on a Cloud TPU slice: asks for it, pushes this commit, installs it, runs train.py on every host, and begins
# again by itself when the slice is preempted or a host dies.
#
#   TYPE=v5litepod-256 DATA=gs://bucket/data launch/tpu_vm.sh run NAME --config=configs/rtd.py:v3_large \
#       --config.data.paths="('data/rows',)" --workdir=gs://bucket/runs/large
#   launch/tpu_vm.sh status NAME         the slice, and how train.py ended on each host
#   launch/tpu_vm.sh logs NAME [HOST]    follows the output of a host (0)
#   launch/tpu_vm.sh stop NAME           saves the state and ends the run on all hosts; the slice stays
#   launch/tpu_vm.sh delete NAME         gives the slice back: it costs until then, whether anything runs or not
#
# `run` watches until train.py has ended, and ends as it does (docs/architecture.md). Interrupted, it leaves the run
# going; the same command finds it again. Keep it in tmux on a machine that stays awake. Code 75 or 5, a signal or a
# vanished host: train.py is started again; any other: it is not. A preempted slice is deleted, asked for and set up anew.
#
#   TYPE     accelerator type, v5litepod-256 unless given      SPOT=1   cheaper, and may be preempted at any time
#   VERSION  image, v2-alpha-tpuv5-lite unless given           DATA     gs:// folder: every host copies it to data/
#
# Needs git, gcloud with a project and a zone (gcloud config set compute/zone ...), and its key in an ssh agent
# (ssh-add ~/.ssh/google_compute_engine). The workdir must outlive the hosts and be seen by all: gs:// or a mount.

set -euo pipefail
cd "$(dirname "$0")/.."

readonly RESTARTS=20  # in a row, of runs that lived less than an hour; preemptions do not count
readonly SILENT=20    # rounds in which a host may not answer while no other is running
readonly PAUSE=30     # seconds between two rounds

say() { echo "tpu_vm.sh: $*" >&2; }
fail() { say "$@"; exit 1; }

# --- on the machine that watches ---

# States of the request and of its slice, as ACTIVE/READY; "/" when there is neither. Fails when nobody answers.
state() {
  local request slice
  request=$(gcloud compute tpus queued-resources list --filter="name~/$NAME\$" --format='value(state.state)') || return
  slice=$(gcloud compute tpus tpu-vm list --filter="name~/$NAME\$" --format='value(state)') || return
  echo "$request/$slice"
}

on_hosts() { gcloud compute tpus tpu-vm ssh "$NAME" --worker="$1" --quiet --command="$2"; }

# A line for each host that answers: "outcome" and running, lost, stopped or an exit code. Fails when not all answer.
outcomes() { on_hosts all "deberta/launch/tpu_vm.sh host_outcome" | grep '^outcome '; }

create() {
  local type=${TYPE:-v5litepod-256} image=${VERSION:-v2-alpha-tpuv5-lite}
  say "asking for a $type"
  gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$type" \
    --runtime-version="$image" ${SPOT:+--spot} --quiet
}

delete() { gcloud compute tpus queued-resources delete "$NAME" --force --quiet; }

# Returns once the slice is there.
acquire() {
  local now
  while true; do
    if now=$(state); then
      case $now in
        ACTIVE/READY) return ;;
        /) create || say "the request was not taken; trying again" ;;
        /READY) fail "$NAME was not asked for by this script: choose another name" ;;
        FAILED/*) fail "the request failed; see: gcloud compute tpus queued-resources describe $NAME" ;;
        SUSPENDED/* | */PREEMPTED | */TERMINATED) say "$now: deleting it" && delete ;;
        *) say "$now: waiting" ;;
      esac
    fi
    sleep "$PAUSE"
  done
}

# Pushes the bundle, installs it and starts train.py with the flags, on all hosts; those that run already stay as they are.
begin() {
  local unpack="git init --quiet deberta && git -C deberta fetch --quiet ../deberta.bundle HEAD"
  unpack+=" && git -C deberta checkout --quiet --force FETCH_HEAD"
  gcloud compute tpus tpu-vm scp "$BUNDLE" "$NAME:deberta.bundle" --worker=all --quiet \
    && on_hosts all "mkdir -p run && flock --timeout 5 run/lock bash -c '$unpack'" \
    && on_hosts all "deberta/launch/tpu_vm.sh host_install $(printf '%q' "${DATA:-}")" \
    && on_hosts all "deberta/launch/tpu_vm.sh host_start $(printf '%q ' "$@")"
}

# Waits for the end of the run and says it in ENDED: gone (the slice), dead (a host), again, or the exit code to pass on.
watch() {
  local now found complete silent=0
  while true; do
    sleep "$PAUSE"
    now=$(state) || continue
    if [[ $now != ACTIVE/READY ]]; then
      say "the slice is $now" && ENDED=gone && return
    fi
    if found=$(outcomes 2> /dev/null); then complete=yes; else complete=no; fi
    if [[ -z $found || $found == *running* ]]; then
      silent=0
    elif [[ $complete == yes ]]; then
      ENDED=$(verdict "$found") && return
    elif ((++silent > SILENT)); then
      ENDED=dead && return
    fi
  done
}

# What all outcomes come to. A code that would come again goes first: the peers of a host that failed end with 5.
verdict() {
  local final
  final=$(grep -vxE 'outcome (0|5|75|129|1[3-9][0-9]|lost|stopped)' <<< "$1" | head -n 1 || true)
  if [[ -n $final ]]; then
    echo "${final#outcome }"
  elif grep -qx "outcome stopped" <<< "$1"; then
    echo 75
  elif grep -qvx "outcome 0" <<< "$1"; then
    echo again
  else
    echo 0
  fi
}

run() {
  local restarts=0 began
  [[ -z $(git status --porcelain --untracked-files=no) ]] || fail "commit your changes first: a commit is what runs"
  BUNDLE=$(mktemp) # made once: what is started again is what was started
  trap 'rm -f "$BUNDLE"' EXIT
  trap 'say "no longer watching; what runs goes on"; exit 130' INT TERM
  git bundle create --quiet "$BUNDLE" HEAD
  while true; do
    acquire
    began=$SECONDS ENDED=again
    if [[ $(outcomes 2> /dev/null || true) == *running* ]] || begin "$@"; then
      say "running; follow it with: launch/tpu_vm.sh logs $NAME"
      watch
    else
      say "it could not be started on all hosts"
      sleep "$PAUSE"
    fi
    ((SECONDS - began < 3600)) || restarts=0
    case $ENDED in
      gone) ;;
      dead) say "a host does not answer and the run has ended: deleting the slice" && delete ;;
      again) ((++restarts <= RESTARTS)) || finish 5 "started $restarts times in a row, in vain" ;;
      0) finish 0 "done" ;;
      *) finish "$ENDED" "ended with code $ENDED" ;;
    esac
  done
}

finish() {
  [[ $1 == 0 ]] || on_hosts all "hostname; tail -n 1 run/log" || true
  say "$2; the slice costs until: launch/tpu_vm.sh delete $NAME"
  exit "$1"
}

stop() {
  on_hosts all "deberta/launch/tpu_vm.sh host_stop"
  while [[ $(outcomes) == *running* ]]; do sleep 1; done
}

status() { state && outcomes | sort | uniq -c; }

logs() { on_hosts "${1:-0}" "tail -n 100 -F run/log"; }

# --- on a host: ~/deberta is the code, ~/run has a lock that is held while train.py runs ---

host_install() {
  python3 -m pip install --user --quiet uv # images have Python 3.10; uv brings its own
  ~/.local/bin/uv venv --quiet --allow-existing --python 3.11 .venv
  ~/.local/bin/uv pip install --quiet --python .venv/bin/python -r requirements-tpu.txt -r requirements-gcs.txt
  [[ -z $1 ]] || { mkdir -p data && gcloud storage rsync --recursive "$1" data; }
}

host_start() {
  exec 9>> ~/run/lock
  flock --timeout 5 9 || { say "already running" && return; }
  rm -f ~/run/code ~/run/stop
  # What is started inherits the lock. SC2016: the inner shell shall expand these.
  # shellcheck disable=SC2016
  nohup setsid bash -c '"$@" & echo $! > ~/run/pid; wait $!; echo $? > ~/run/code' - \
    .venv/bin/python train.py "$@" < /dev/null >> ~/run/log 2>&1 &
}

host_outcome() {
  exec 9>> ~/run/lock
  if ! flock --shared --nonblock 9; then
    echo outcome running
    return
  fi
  local code=lost
  [[ ! -f ~/run/code ]] || code=$(< ~/run/code)
  [[ ! -f ~/run/stop || $code == [0-4] ]] || code=stopped
  echo "outcome $code"
}

host_stop() {
  touch ~/run/stop
  [[ $(host_outcome) != *running ]] || kill -TERM "$(< ~/run/pid)"
}

case ${1:-} in
  run | status | logs | stop | delete)
    [[ -n ${2:-} && $2 != -* ]] || fail "the slice's name is missing: launch/tpu_vm.sh $1 NAME"
    NAME=$2
    "$1" "${@:3}"
    ;;
  host_*) "$@" ;;
  *) sed -n '2,/^$/s/^# \{0,1\}//p' launch/tpu_vm.sh && exit 2 ;;
esac
