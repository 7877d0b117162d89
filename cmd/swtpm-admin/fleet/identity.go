package fleet

// twins notes for each TPM the names of the TPMs with the same identity in another location: a
// copy of the state, of which only one may be used. It relies on what the state files say.
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
