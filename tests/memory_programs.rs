//! Real programs in pools of half their working set give what they give outside.

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::{EXE, alone, can_run_memory, has, sh};

/// Runs a script outside and in a pool, and compares what it writes and its status.
fn is_the_same_in_a_pool(programs: &[&str], max: &str, script: &str) {
    if !can_run_memory() || !programs.iter().all(|p| has(p)) {
        return;
    }
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let outside = run(dir.path(), &["sh", "-c", script]);
    assert!(outside.status.success(), "{outside:?}");
    assert!(!outside.stdout.is_empty());
    for tiers in ["file:2G:/var/tmp", "lz4:2M file:2G:/var/tmp"] {
        let pool = [EXE, "run", "--memory", max, "--swap-tiers", tiers, "--", "sh", "-c", script];
        let inside = run(dir.path(), &pool);
        let errors = String::from_utf8_lossy(&inside.stderr);
        assert_eq!(inside.status.code(), Some(0), "{tiers}: {errors}");
        assert!(inside.stdout == outside.stdout, "{tiers}: another result\n{errors}");
    }
}

fn run(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "100"]).args(args).current_dir(dir);
    command.env_remove("COMPARTMENTS_MOUNT").stdin(Stdio::null()).output().expect("timeout from coreutils")
}

#[test]
fn sort_sorts() {
    // 300,000 lines, some 45 MiB of buffer.
    let script = "seq 1 300000 | sed 's/$/ a line of text/' | sort -R --random-source=/bin/sort -S 40M > shuffled; \
        sort -S 40M --parallel=2 shuffled | cksum; wc -l < shuffled";
    is_the_same_in_a_pool(&["sort"], "20M", script);
}

#[test]
fn sqlite_finds_its_rows() {
    let script = "sqlite3 :memory: \"PRAGMA cache_size=-40000; create table t(a integer primary key, b text); \
        with recursive n(i) as (select 1 union all select i+1 from n where i<60000) \
        insert into t select i, printf('%d some text that makes it longer %d', i*7919 % 100003, i) from n; \
        create index i on t(b); select count(*), sum(a), min(b), max(b) from t; \
        select sum(length(x.b)) from t x join t y on x.a = (y.a * 7919) % 60000 + 1;\"";
    is_the_same_in_a_pool(&["sqlite3"], "12M", script);
}

#[test]
fn python_computes() {
    let script = "python3 -c \"
import hashlib
d = {i: str(i * i) * 3 for i in range(60000)}
l = sorted(d.values())
b = bytearray(16 << 20)
for i in range(0, len(b), 4096): b[i] = i // 4096 % 251
h = hashlib.sha256(''.join(l).encode()); h.update(b)
print(h.hexdigest(), len(d))
import subprocess
print(subprocess.check_output(['echo', 'from a child']))
\"";
    is_the_same_in_a_pool(&["python3"], "28M", script);
}

#[test]
fn perl_counts() {
    let script = "perl -e 'my %h; for my $i (1..50000) { $h{$i * 7919 % 300007} .= \"x$i\"; } my $s = 0; \
        for my $k (sort { $a <=> $b } keys %h) { $s = ($s * 31 + $k + length $h{$k}) % 1000000007; } print \"$s\\n\"; \
        my $p = fork; if (!$p) { print scalar(keys %h), \"\\n\"; exit 0 } waitpid $p, 0; print \"$?\\n\"'";
    is_the_same_in_a_pool(&["perl"], "13M", script);
}

#[test]
fn gcc_compiles() {
    let script = "i=0; while [ $i -lt 1500 ]; do echo \"int f$i(int a, int *b) { int s = 0; for (int i = 0; i < a; i++) s += b[i] * $i + f$((i > 0 ? i - 1 : 0))(i, b); return s; }\"; \
        i=$((i+1)); done | sed '1i int f0(int, int *);' > big.c; gcc -O1 -c -o big.o big.c && objdump -d big.o | cksum";
    is_the_same_in_a_pool(&["gcc", "objdump"], "40M", script);
}

#[test]
fn tar_and_xz_pack_and_unpack() {
    let script = "mkdir -p t; seq 1 400000 > t/a; seq 400000 -3 1 > t/b; tar --sort=name --mtime=@0 --owner=0 --group=0 -cf - t \
        | xz -6 -T1 > t.xz; cksum < t.xz; mkdir -p u; xz -dc t.xz | tar -xf - -C u; cksum u/t/a u/t/b";
    is_the_same_in_a_pool(&["tar", "xz"], "30M", script);
}

#[test]
fn redis_keeps_its_keys() {
    let script = "redis-server --port 0 --unixsocket $PWD/r.sock --save '' --appendonly no --daemonize no > redis.log & \
        r=\"redis-cli -s $PWD/r.sock\"; for i in $(seq 100); do $r ping > ping 2>&1; grep -q PONG ping && break; sleep 0.1; done; \
        redis-benchmark -s $PWD/r.sock -q -n 20000 -r 100000 -d 300 -t set,get,lpush -c 10 > bench; \
        $r del mylist > del; seq 1 30000 | awk '{ print \"set k\" $1 \" \" $1 * 7919 }' | $r > sets; \
        grep -c OK sets; $r get k777; $r get k30000; $r dbsize | grep -c . ; $r shutdown nosave; wait; echo $?";
    is_the_same_in_a_pool(&["redis-server", "redis-benchmark", "redis-cli"], "12M", script);
}

#[test]
fn c_plus_plus_allocates() {
    let source = r#"
#include <map>
#include <string>
#include <vector>
#include <cstdio>
int main() {
    std::map<int, std::string> m;
    std::vector<std::vector<long>> v;
    for (int i = 0; i < 120000; i++) { m[i * 7919 % 200003] = std::string(i % 97, 'a' + i % 26); }
    for (int i = 0; i < 3000; i++) v.emplace_back(i, i * 3L);
    unsigned long s = 0;
    for (auto &[k, t] : m) s = s * 31 + k + t.size();
    for (auto &w : v) for (auto x : w) s += x;
    for (int i = 0; i < 200003; i += 3) m.erase(i);
    for (auto &[k, t] : m) s = s * 37 + k + (t.empty() ? 0 : t[0]);
    printf("%lu %zu\n", s, m.size());
}
"#;
    let script = format!(
        "cat > a.cc <<'EOF'{source}EOF\n[ -x a ] || g++ -std=c++17 -O1 -o a a.cc; ./a; [ -x s ] || g++ -static -std=c++17 -O1 -o s a.cc; ./s"
    );
    is_the_same_in_a_pool(&["g++"], "24M", &script);
}

#[test]
fn node_computes() {
    if sh("command -v node").status.success() {
        let script = "node -e \"let a=[]; for (let i=0;i<200000;i++) a.push({k:i*7919%100003, s:'x'.repeat(i%50)}); \
            a.sort((x,y)=>x.k-y.k||x.s.length-y.s.length); let h=0; for (const o of a) h=(h*31+o.k+o.s.length)%1000000007; console.log(h)\"";
        is_the_same_in_a_pool(&["node"], "64M", script);
    }
}
