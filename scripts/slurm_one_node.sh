#!/usr/bin/env bash
# A SLURM of this machine alone, to try job scripts on (docs/clusters.md). Needs root and Debian's
# packages: apt-get install --no-install-recommends slurm-wlm munge
#
#     scripts/slurm_one_node.sh start FOLDER     # everything it writes lies in FOLDER
#     export SLURM_CONF=FOLDER/slurm.conf        # for sbatch, squeue, scancel
#     scripts/slurm_one_node.sh stop FOLDER
#
# Its own ports, key and sockets, so that it meets no other SLURM or munge. No control groups: memory
# that a job asks for is booked, not enforced.
set -euo pipefail
[[ $# == 2 && $1 =~ ^(start|stop)$ ]] || { sed -n '2,10s/^# \?//p' "$0" >&2; exit 2; }
mkdir -p "$2"
folder=$(cd "$2" && pwd)

if [[ $1 == stop ]]; then
    for name in slurmctld slurmd munged; do
        [[ -s $folder/$name.pid ]] && kill "$(<"$folder/$name.pid")" || true
    done
    exit
fi

host=$(hostname -s)
mkdir -p "$folder"/{state,spool}
[[ -e $folder/munge.key ]] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
cat >"$folder/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 512))
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
# --force: a folder of ours need not be as private as /run/munge.
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
export SLURM_CONF=$folder/slurm.conf
slurmctld
slurmd
for _ in $(seq 60); do
    if [[ $(sinfo --noheader --format=%T 2>/dev/null) == idle ]]; then
        echo "export SLURM_CONF=$folder/slurm.conf"
        exit
    fi
    sleep 1
done
echo "the node did not become idle; see $folder/slurmctld.log and slurmd.log" >&2
exit 1
