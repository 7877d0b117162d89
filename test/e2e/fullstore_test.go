package e2e_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/swtpm-go/swtpm/test/harness"
	"github.com/swtpm-go/swtpm/test/harness/etcdtest"
)

// fullStore runs the operations of TestFullDisk with a cluster store, one after the other, since
// all states in it meet the same alarm.
func fullStore(t *testing.T, all bool) {
	t.Parallel()
	k := newClusterHost(t).keeping()
	for key, args := range keyed {
		for i, o := range operations {
			if !all && (key != "plain" || i%3 != 0) {
				continue
			}
			t.Run(strings.Join([]string{key, string(o.v), o.name}, " "), func(t *testing.T) {
				fullDiskDuring(t, &fullDisk{keeping: k, dir: k.place(t)}, o, args)
			})
		}
	}
}

// TestFullQuota fills etcd up to its quota, which sets the alarm of TestFullDisk. The command waits
// until an administrator has made room as docs/store.md says.
func TestFullQuota(t *testing.T) {
	t.Parallel()
	member := etcdtest.Start(t, "--quota-backend-bytes=4194304")
	k := newBrokerOf(t, member).keeping()
	w := newFilled(t, &fullDisk{keeping: k, dir: k.place(t)}, v20, nil)
	blob := base64.StdEncoding.EncodeToString(make([]byte, 512<<10))
	for n := 0; ; n++ {
		key := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "/other/%d", n))
		rsp := member.Post(t, "kv/put", `{"key":"`+key+`","value":"`+blob+`"}`, http.StatusTooManyRequests)
		if strings.Contains(rsp, "space exceeded") {
			break
		}
		if n > 100 {
			t.Fatal("etcd takes more than its quota")
		}
	}
	answer := w.send(incr20)
	w.waits(t, 1)
	w.makeRoom(t, member)
	if err := <-answer; err != nil {
		t.Errorf("after space has returned: %v", err)
	}
	if n := w.ch.number(t); n != 2 {
		t.Errorf("the number is %d, want 2", n)
	}
	w.e.Kill(t)
	if n := start(t, k.at(v20, w.d.dir)).power(t, v20).number(t); n != 2 {
		t.Errorf("after a new start: the number is %d, want 2", n)
	}
}

// makeRoom deletes what filled etcd, compacts and defragments it, and clears its alarm.
func (w *filled) makeRoom(t *testing.T, member *etcdtest.Member) {
	t.Helper()
	var deleted struct {
		Header struct {
			Revision string `json:"revision"`
		} `json:"header"`
	}
	first, end := base64.StdEncoding.EncodeToString([]byte("/other/")), base64.StdEncoding.EncodeToString([]byte("/other0"))
	rsp := member.Post(t, "kv/deleterange", `{"key":"`+first+`","range_end":"`+end+`"}`)
	if err := json.Unmarshal([]byte(rsp), &deleted); err != nil {
		t.Fatal(err)
	}
	member.Post(t, "kv/compaction", `{"revision":"`+deleted.Header.Revision+`","physical":true}`)
	member.Post(t, "maintenance/defragment", "{}")
	var alarms struct {
		Alarms []struct {
			MemberID string `json:"memberID"`
		} `json:"alarms"`
	}
	if err := json.Unmarshal([]byte(member.Post(t, "maintenance/alarm", "{}")), &alarms); err != nil || len(alarms.Alarms) != 1 {
		t.Fatalf("alarms %v, %v, want one", alarms, err)
	}
	member.Post(t, "maintenance/alarm", `{"action":"DEACTIVATE","memberID":"`+alarms.Alarms[0].MemberID+`","alarm":"NOSPACE"}`)
}

// TestFullMember fills the disk of the only member, which ends because of that. It checks that no
// acknowledged number is lost, that the TPM answers commands that store nothing, and that it
// continues when the member runs again.
func TestFullMember(t *testing.T) {
	t.Parallel()
	needRoot(t, "it mounts a small tmpfs")
	dir := harness.TempDir(t)
	mountAt(t, "tmpfs", dir, "tmpfs", "size=192m") // etcd allocates two files of 64 MB
	member := etcdtest.Start(t, "--data-dir="+filepath.Join(dir, "etcd"), "--log-level=panic")
	k := newBrokerOf(t, member).keeping()
	w := newFilled(t, &fullDisk{keeping: k, dir: k.place(t)}, v20, nil)
	filler := filepath.Join(dir, "filler")
	fill(t, filler)
	number, refusals := uint64(1), 0
	for refusals < 2 {
		switch err := w.ch.bump(number + 1); {
		case err == nil:
			number++
		case !strings.Contains(err.Error(), "0x92"):
			t.Fatal(err)
		default:
			refusals++
		}
		if number > 5000 {
			t.Fatal("the member stores states on a full disk")
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	member.Restart(t)
	harness.Await(t, "the TPM goes on", func() bool { return w.ch.bump(0) == nil })
	after := w.ch.number(t)
	if after < number+1 || after > number+2 { // the first refused one may be stored
		t.Errorf("the number is %d, %d was acknowledged before the last one", after, number)
	}
	w.e.Kill(t)
	if n := start(t, k.at(v20, w.d.dir)).power(t, v20).number(t); n != after {
		t.Errorf("after a new start: the number is %d, want %d", n, after)
	}
	t.Logf("%d numbers before the member ended", number)
}
