# What a person types. Everything made lies in target/; `make clean` removes it.

export PATH := $(HOME)/.cargo/bin:$(PATH):/usr/sbin:/sbin
TIER ?=
BENCH ?=
MINUTES ?= 60
KILLS ?= 200

.PHONY: all check fix demo test faults soak mutants bench clean

all:
	cargo build --workspace --bins

# Only reads.
check:
	scripts/check

# Writes.
fix:
	cargo fmt
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged

# The whole main job on this one machine: ARGS=--keep leaves it running.
demo:
	scripts/setup
	cargo build --workspace --bins
	target/debug/thermidor demo $(ARGS)

# All tests; TIER=unit runs one tier.
test:
	scripts/test $(TIER)

# The tier of `make test` in which real radiators are cut, frozen, killed, filled and misled.
faults:
	scripts/test radiators

# The long forms, until a limit in minutes: MINUTES=600 runs a night. KILLS=200 faults under mail's load come
# first (SEED=n: the same ones again), then the simulator's seeds.
soak:
	scripts/soak $(MINUTES) $(KILLS)

# Switches off one safety at a time; each must turn a test red.
mutants:
	scripts/setup
	scripts/mutants

# Figures, against what others do in the same run; BENCH=consensus runs one group.
bench:
	scripts/setup etcd:etcd-server etcdctl:etcd-client rclone:rclone glusterd:glusterfs-server fio:fio
	cargo build --release --workspace --bins
	target/release/thermidor-bench $(BENCH)

clean:
	-target/debug/thermidor lab-sweep
	cargo clean
