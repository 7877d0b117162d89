# Uses a TPM with tpm2-tools as a user does. The first argument selects the part: "first"
# with a new TPM, "again" after it was restarted.
# $TPM2TOOLS_TCTI names the TPM; files are created in the current directory.
set -eu

# refused checks that a command fails; "!" alone would not end the script.
refused() { if "$@" 2>/dev/null; then echo "should have failed: $*"; exit 1; fi; }

# The swtpm TCTI has no resource manager: loaded objects must be flushed by hand.
flush() { tpm2_flushcontext -t; tpm2_flushcontext -s; }

first() {
	test "$(tpm2_getrandom --hex 16 | wc -c)" -ge 32

	# PCRs: an extend changes the value
	tpm2_pcrread sha256:16 >before
	tpm2_pcrextend 16:sha256=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
	tpm2_pcrread sha256:16 >after
	refused cmp -s before after

	# keys: primary, child, sign, verify; another text does not verify
	tpm2_createprimary -Q -C o -g sha256 -G ecc -c primary.ctx
	tpm2_create -Q -C primary.ctx -G rsa2048:rsassa:null -u key.pub -r key.priv
	flush
	tpm2_load -Q -C primary.ctx -u key.pub -r key.priv -c key.ctx
	flush
	echo message >message
	tpm2_sign -Q -c key.ctx -g sha256 -o signature message
	flush
	tpm2_verifysignature -Q -c key.ctx -g sha256 -s signature -m message
	flush
	echo other >other
	refused tpm2_verifysignature -Q -c key.ctx -g sha256 -s signature -m other
	flush

	# a persistent key
	tpm2_evictcontrol -Q -C o -c primary.ctx 0x81000001
	tpm2_readpublic -Q -c 0x81000001 -n primary.name
	flush

	# NV: an area, a counter
	tpm2_nvdefine -Q -C o -s 32 -a "ownerread|ownerwrite" 0x1500001
	echo "kept in the TPM, 32 bytes in all" | head -c 32 >area
	tpm2_nvwrite -Q -C o -i area 0x1500001
	tpm2_nvread -C o -s 32 0x1500001 | cmp - area
	tpm2_nvdefine -Q -C o -s 8 -a "ownerread|ownerwrite|nt=counter" 0x1500002
	tpm2_nvincrement -Q -C o 0x1500002
	tpm2_nvincrement -Q -C o 0x1500002
	tpm2_nvread -C o -s 8 0x1500002 >counter

	# a policy session: data that can be read while PCR 16 has this value
	tpm2_startauthsession -S trial.ctx
	tpm2_policypcr -Q -S trial.ctx -l sha256:16 -L pcr.policy
	tpm2_flushcontext trial.ctx
	tpm2_nvdefine -Q -C o -s 8 -a "policyread|ownerwrite" -L pcr.policy 0x1500003
	printf 'guarded!' >guarded
	tpm2_nvwrite -Q -C o -i guarded 0x1500003
	tpm2_startauthsession --policy-session -S session.ctx
	tpm2_policypcr -Q -S session.ctx -l sha256:16
	tpm2_nvread -P session:session.ctx -s 8 0x1500003 | cmp - guarded
	tpm2_flushcontext session.ctx
	tpm2_pcrreset 16
	tpm2_startauthsession --policy-session -S session.ctx
	tpm2_policypcr -Q -S session.ctx -l sha256:16
	refused tpm2_nvread -P session:session.ctx -s 8 0x1500003
	tpm2_flushcontext session.ctx

	# a quote
	tpm2_createek -Q -c ek.ctx -G rsa
	flush
	tpm2_createak -Q -C ek.ctx -c ak.ctx -G rsa -g sha256 -s rsassa -u ak.pub -f pem
	flush
	tpm2_quote -Q -c ak.ctx -l sha256:0,16 -q 0123456789abcdef -m quote.msg -s quote.sig -o quote.pcrs -g sha256
	tpm2_checkquote -Q -u ak.pub -m quote.msg -s quote.sig -f quote.pcrs -g sha256 -q 0123456789abcdef
	refused tpm2_checkquote -Q -u ak.pub -m quote.msg -s quote.sig -f quote.pcrs -g sha256 -q fedcba9876543210
}

again() {
	tpm2_nvread -C o -s 32 0x1500001 | cmp - area
	tpm2_nvread -C o -s 8 0x1500002 | cmp - counter
	tpm2_nvincrement -Q -C o 0x1500002
	tpm2_nvread -C o -s 8 0x1500002 >next
	refused cmp -s next counter
	tpm2_readpublic -Q -c 0x81000001 -n now.name
	cmp now.name primary.name
	flush
	tpm2_load -Q -C 0x81000001 -u key.pub -r key.priv -c key.ctx
	flush
	tpm2_verifysignature -Q -c key.ctx -g sha256 -s signature -m message
}

set -x
"$1"
