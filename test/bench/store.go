package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// store compares a state in a cluster store with one in a directory, both of ours: the second
// column is the store. It is one member of etcd on this machine, on the same file system.
func (b *bench) store() error {
	brokerProgram := filepath.Join(b.oursDir, "swtpm-store")
	for _, program := range []string{"etcd", "etcdctl", brokerProgram} {
		if _, err := exec.LookPath(program); err != nil {
			b.report.note("the cluster store: not measured: %v", err)
			return nil
		}
	}
	url, broker, stop, err := b.startStore(brokerProgram)
	defer stop()
	if err != nil {
		return err
	}
	_, local := b.kinds()
	remote := local
	remote.name, remote.store = "ours in a store", true
	remote.env = []string{"SWTPM_STORE_SOCKET=" + filepath.Join(b.dir, "broker")}
	if err := b.storeWrites(local, remote); err != nil {
		return err
	}
	if err := b.storeStarts(local, remote); err != nil {
		return err
	}
	return b.storeMany(remote, url, broker.Process.Pid)
}

// startStore starts etcd and a broker. stop ends what was started.
func (b *bench) startStore(program string) (url string, broker *exec.Cmd, stop func(), err error) {
	var running []*exec.Cmd
	stop = func() {
		for _, c := range running {
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	}
	start := func(words ...string) *exec.Cmd {
		c := exec.Command(words[0], words[1:]...)
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err == nil {
			if err = c.Start(); err == nil {
				running = append(running, c)
			}
		}
		return c
	}
	var urls [2]string
	for i := range urls {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", nil, stop, err
		}
		urls[i] = "http://" + l.Addr().String()
		_ = l.Close()
	}
	url = urls[0]
	start("etcd", "--name=one", "--data-dir="+filepath.Join(b.dir, "etcd"), "--listen-client-urls="+url, "--advertise-client-urls="+url,
		"--listen-peer-urls="+urls[1], "--initial-advertise-peer-urls="+urls[1], "--initial-cluster=one="+urls[1], "--logger=zap", "--log-level=error")
	config := filepath.Join(b.dir, "store.toml")
	text := fmt.Sprintf("endpoints = [%q]\nsocket = %q\n[[allow]]\nusers = [\"*\"]\nstates = [\"*\"]\n", url, filepath.Join(b.dir, "broker"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", nil, stop, err
	}
	for end := time.Now().Add(startWait); err == nil && exec.Command(program, "--config", config, "--check").Run() != nil; {
		if time.Now().After(end) {
			return "", nil, stop, fmt.Errorf("etcd at %s does not answer", url)
		}
	}
	broker = start(program, "--config", config)
	for end := time.Now().Add(startWait); err == nil; time.Sleep(10 * time.Millisecond) {
		if _, missing := os.Stat(filepath.Join(b.dir, "broker")); missing == nil || time.Now().After(end) {
			break
		}
	}
	return url, broker, stop, err
}

// storeWrites measures NV_Increment, which waits until it is durable.
func (b *bench) storeWrites(local, remote kind) error {
	var servers [2]*server
	for i, k := range []kind{local, remote} {
		s, err := b.counting(k)
		if err != nil {
			return err
		}
		servers[i] = s
	}
	var times, tails pairs
	for round := range b.rounds {
		c, err := b.pair(servers[0], servers[1], work{request: increment, how: "in a store", count: b.stores}, round)
		if err != nil {
			return err
		}
		times.add(c[0].p50, c[1].p50)
		tails.add(c[0].p99, c[1].p99)
	}
	b.report.add(row{Name: "NV_Increment, durable: in a cluster store, next to ours in a directory", Unit: "µs"}, times, tails)
	for _, s := range servers {
		b.stop(s)
	}
	return nil
}

// storeStarts measures the start with an existing state.
func (b *bench) storeStarts(local, remote kind) error {
	dirs := [2]string{}
	for i, k := range []kind{local, remote} {
		dir, err := b.existing(k)
		if err != nil {
			return err
		}
		s, err := b.launch(k, dir)
		if err != nil {
			return err
		}
		b.stop(s)
		dirs[i] = dir
	}
	var first pairs
	for round := range b.starts {
		var took [2]float64
		for n := range 2 {
			i := (n + round) % 2
			s, err := b.launch([2]kind{local, remote}[i], dirs[i])
			if err != nil {
				return err
			}
			took[i] = millis(s.first)
			b.stop(s)
		}
		first.add(took[0], took[1])
	}
	b.report.add(row{Name: "start to the first response: in a cluster store, next to ours in a directory", Unit: "ms"}, first, pairs{})
	return nil
}

// storeMany measures the broker of many idle TPMs; the first column is the broker alone.
func (b *bench) storeMany(remote kind, url string, broker int) error {
	alone, err := readMemory(broker)
	if err != nil {
		b.report.note("memory of the broker: not measured: %v", err)
		return nil
	}
	var servers []*server
	for range b.together {
		dir, err := b.newDir("")
		if err != nil {
			return err
		}
		s, err := b.launch(remote, dir)
		if err != nil {
			return err
		}
		servers = append(servers, s)
	}
	if err := settled(servers); err != nil {
		return err
	}
	before, err := cpu(broker)
	if err != nil {
		return err
	}
	sleep(b.quiet)
	after, err := cpu(broker)
	if err != nil {
		return err
	}
	many, err := readMemory(broker)
	if err != nil {
		return err
	}
	cmd := exec.Command("etcdctl", "--endpoints", url, "lease", "list")
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	leases := len(strings.Split(strings.TrimSpace(string(out)), "\n")) - 1 // the first line is a heading
	name := fmt.Sprintf("broker with %d idle TPMs", b.together)
	b.one(row{Name: name + ": leases", Unit: ""}, 1, float64(leases))
	b.one(row{Name: name + ": PSS", Unit: "kB"}, float64(alone.pss), float64(many.pss))
	b.one(row{Name: name + ": CPU per second", Unit: "ms"}, 0, millis(after-before)/b.quiet.Seconds())
	for _, s := range servers {
		b.stop(s)
	}
	return nil
}
