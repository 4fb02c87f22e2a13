#!/bin/sh
# The agent for `compartment uml attach`: lists the processes of the machine that it runs on over a serial line, and passes signals and priorities on to them.
# To be started as root, in the background: sh agent.sh [/dev/ttyS0] &
# Needs cat, cut, grep, tr, stat, stty and renice, of busybox or of any distribution.
#
# It is asked                          and answers
#   list TOKEN                         begin TOKEN BOOT OWN_PID UPTIME, lines of /proc/PID/stat, end TOKEN
#   words TOKEN PID...                 the same with "PID/cmdline:WORDS" and "user PID UID", the words divided by the byte 037
#   kill TOKEN PID START SIGNAL        done TOKEN STATUS, which is 0, 1 for refused, 3 for no such process
#   nice TOKEN PID START NICE          the same
# and says `ready` when it has begun.
line=${1:-/dev/ttyS0}
trap '' HUP INT QUIT PIPE
# Else everybody waits for whatever keeps the guest busy.
renice -10 -p $$ >/dev/null 2>&1
boot=$(cat /proc/sys/kernel/random/boot_id)
cd /proc || exit

# Whether the process with that PID is the one that began then.
began() {
	stat=$(cat "$1/stat") || return
	set -- "$2" ${stat##*) }
	[ "${21}" = "$1" ]
}

answer() {
	case $op in
	list) begin && cat [0-9]*/stat; echo "end $token" ;;
	words) begin && cmdlines $pid $start $value; echo "end $token" ;;
	kill) began "$pid" "$start"; done_by kill "-$value" "$pid" ;;
	nice) began "$pid" "$start"; done_by renice "$value" -p "$pid" ;;
	esac
}

begin() {
	echo "begin $token $boot $$ $(cat uptime)"
}

# Three programs for all of them, since starting one takes long where there is much to do; and grep, since it says before each line whose that is.
cmdlines() {
	grep -a -m 1 -H '' $(printf '%s/cmdline ' "$@") | tr '\000' '\037' | cut -c 1-200
	stat -c 'user %n %u' "$@"
}

done_by() {
	if [ $? != 0 ]; then
		echo "done $token 3"
	elif "$@" >/dev/null; then
		echo "done $token 0"
	else
		echo "done $token 1"
	fi
}

while :; do
	stty -F "$line" raw -echo
	{
		printf '\nready\n' >&3
		while read -r op token pid start value; do
			answer >&3
		done <&3
	} 3<>"$line"
	# The line was hung up.
	sleep 1
done 2>/dev/null
