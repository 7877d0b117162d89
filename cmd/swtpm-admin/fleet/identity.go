package fleet

// twins sets SameIdentity of each TPM: the names of the TPMs with the same identity in another
// location. They are copies of one state, of which only one may be used. The identities in the
// state files are not authenticated.
func twins(tpms []TPM) {
	same := map[string][]int{}
	for i, t := range tpms {
		if t.Identity != "" && t.cfg != nil {
			same[t.Identity] = append(same[t.Identity], i)
		}
	}
	for _, all := range same {
		for _, i := range all {
			for _, j := range all {
				if tpms[i].cfg.State.Absolute() != tpms[j].cfg.State.Absolute() {
					tpms[i].SameIdentity = append(tpms[i].SameIdentity, tpms[j].Name)
				}
			}
		}
	}
}
