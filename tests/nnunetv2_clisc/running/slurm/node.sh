#!/usr/bin/env bash
# A real Slurm on this machine alone, without systemd: munged, slurmctld and slurmd with everything in one folder.
# Usage: node.sh start DIR | stop DIR. Clients need SLURM_CONF=DIR/slurm.conf. Start as root.
# Needs: apt-get install slurm-wlm munge
set -euo pipefail
action="$1"
mkdir -p "$2"
dir="$(cd "$2" && pwd)"

stop() {
    for name in slurmd slurmctld munged; do
        pid="$(cat "$dir/$name.pid" 2>/dev/null || true)"
        [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
        for _ in $(seq 50); do
            [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null || break
            sleep 0.1
        done
        rm -f "$dir/$name.pid"
    done
}

start() {
    chmod 755 "$dir"
    mkdir -p "$dir/state" "$dir/spool"
    dd if=/dev/urandom of="$dir/munge.key" bs=1024 count=1 status=none
    chmod 600 "$dir/munge.key"
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
    host="$(hostname -s)"
    # two ports that are free now
    ports="$(python3 -c 'import socket
held = [socket.socket() for _ in range(2)]
for each in held: each.bind(("", 0))
print(*(each.getsockname()[1] for each in held))')"
    cat >"$dir/slurm.conf" <<CONF
ClusterName=clisc
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports% *}
SlurmdPort=${ports#* }
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,sched_min_interval=100000,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
MinJobAge=3600
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    export SLURM_CONF="$dir/slurm.conf"
    slurmctld -c
    slurmd -c
    for _ in $(seq 100); do
        if sinfo --noheader --format=%t 2>/dev/null | grep -qx idle; then
            return 0
        fi
        sleep 0.2
    done
    echo "slurm: the node is not idle after 20 s; see $dir/slurmctld.log and $dir/slurmd.log" >&2
    return 1
}

case "$action" in
    start) start || { stop; exit 1; } ;;
    stop) stop ;;
    *) echo "usage: node.sh start|stop DIR" >&2; exit 2 ;;
esac
