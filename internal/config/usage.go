package config

import (
	"strings"

	"github.com/swtpm-go/swtpm/internal/program"
)

// Usage is the help text of one interface: swtpm socket --help.
func Usage(iface string) string {
	switch iface {
	case "socket":
		return "Usage: swtpm socket [OPTION]...\nRuns one TPM behind a socket.\n\n" + usageTPM +
			"Connections:\n" + usageServer + usageCtrl + usagePort + usageProcess
	case "chardev":
		return "Usage: swtpm chardev [OPTION]...\nRuns one TPM behind a character device.\n\n" + usageTPM +
			"Connections:\n" + usageChardev + usageCtrl + "\n" + usageProcess
	case "cuse":
		return "Usage: swtpm cuse [OPTION]...\nRuns one TPM as a character device of its own, in the background.\n\n" + usageTPM +
			"The device:\n" + usageCuse + strings.ReplaceAll(usageProcess, usageDaemon, "") + usageVersion
	}
	return Help()
}

// cuseVersion is what swtpm cuse --version prints.
const cuseVersion = "TPM emulator CUSE interface version " + program.ReferenceVersion + ", Copyright (c) the swtpm-go authors\n"

const usageTPM = `The TPM:
  --tpm2                  a TPM 2.0; without it, a TPM 1.2
  --tpmstate dir=DIR|backend-uri=dir://DIR|backend-uri=file://FILE[,mode=OCTAL]
             [,lock][,fsync][,backup][,durability=full|relaxed]
             [,on-full=wait|fail][,wait-limit=TIME|none]
             [,max-stores-per-minute=N]
                          where the state is kept; without it, in $TPM_PATH.
                          FILE: one image file or block device for all of it;
                          mode: permissions of the files (0640); lock: keep
                          other instances out (on; for FILE off); backup: keep
                          the previous permanent state (not with FILE);
                          durability: full (the default) has
                          every change on disk before it is answered, as fsync
                          asks for; relaxed leaves that to the kernel;
                          on-full: when the disk is full, a TPM command waits
                          for space (wait, the default), at most wait-limit
                          (100s), or gets an error at once (fail);
                          max-stores-per-minute: refuse commands that write NV
                          memory when a guest stores more often for long (300;
                          0 for no limit)
  --flags [not-need-init][,startup-clear|startup-state|startup-deactivated|
          startup-none][,disable-auto-shutdown]
                          power the TPM on at once; send it a Startup; never
                          send it a TPM2_Shutdown
  --locality [reject-locality-4][,allow-set-locality]
                          what clients may do with localities
  --profile name=NAME|profile=JSON|file=FILE|fd=N[,remove-disabled=check|fips-host]
                          the algorithm profile of a new TPM 2.0: its name, or
                          the JSON that describes it. remove-disabled takes out
                          of a custom profile what OpenSSL refuses here, or on
                          a FIPS host. Needs libtpms 0.10
  --key, --migration-key file=FILE|fd=N[,format=hex|binary][,mode=CIPHER][,remove]
  --key, --migration-key pwdfile=FILE|pwdfd=N[,kdf=pbkdf2|sha512][,mode=CIPHER]
        [,remove]
                          encrypt the state on disk; encrypt the state that
                          leaves through the control channel. CIPHER is
                          aes-128-cbc (also aes-cbc; default) or aes-256-cbc;
                          remove deletes the file once it is read
  --migration [incoming][,release-lock-outgoing][,encrypted-only]
                          of a guest that moves between hosts with one state
                          directory. incoming: the state belongs to another
                          process until its blobs arrive; release-lock-outgoing:
                          let go of it when the last blob leaves (on; =false
                          keeps it); encrypted-only: refuse blobs that are not
                          encrypted with the migration key

`

const usageServer = `  --server [type=tcp],port=PORT[,bindaddr=ADDR[,ifname=IF]]|fd=N[,disconnect]
  --server type=unixio,path=PATH|fd=N[,mode=OCTAL][,uid=USER][,gid=GROUP]
           [,disconnect]
                          the data channel. tcp: 127.0.0.1 unless bindaddr is
                          given, $TPM_PORT without port, fd is a connection;
                          unixio: fd is a listening socket; disconnect: close
                          after each response
`

const usagePort = `  -p, --port PORT         same as --server type=tcp,port=PORT,disconnect
  -f, --fd N              the data channel is the open descriptor N
  -t, --terminate         end when the data connection is lost

`

const usageChardev = `  -c, --chardev DEVICE    the data channel is this device; opened before --runas
                          and --chroot
  -f, --fd N              the data channel is the open descriptor N
  --vtpm-proxy            make a device /dev/tpmN of the kernel's with the TPM
                          behind it, and say so on stdout; as root. The TPM is
                          powered on and gets a Startup (clear) unless --flags
                          says otherwise
`

const usageCuse = `  -n, --name NAME         the device is /dev/NAME
  -M, --maj N             its major number; 0, the default, for any
  -m, --min N             its minor number

`

const (
	usageDaemon  = "  -d, --daemon            run in the background\n"
	usageVersion = "  -v, --version           the version\n"
)

const usageCtrl = `  --ctrl type=unixio,path=PATH|fd=N|clientfd=N[,mode=OCTAL][,uid=USER]
         [,gid=GROUP][,terminate]
  --ctrl type=tcp,port=PORT[,bindaddr=ADDR[,ifname=IF]]|fd=N[,terminate]
                          the control channel; terminate: end when its
                          connection is lost
`

const usageProcess = `The process:
  -d, --daemon            run in the background
  -r, --runas USER        change to this user
  -R, --chroot DIR        make DIR the root directory first; all other paths and
                          names are looked up in it
  --seccomp action=kill|log|none
                          what a system call does that a running TPM does not
                          need: end the process (the default), be logged by the
                          kernel, or nothing
  --pid file=FILE|fd=N    write the process id there
  --log file=FILE|fd=N[,level=N][,prefix=TEXT][,truncate]
                          where messages go; file=- for nowhere; level 5 and
                          above has the log of libtpms too
  --pcap file=FILE|fd=N[,truncate][,mode=OCTAL][,checksums][,redact]
                          record the traffic of the data channel there, for
                          Wireshark and tshark. mode: permissions of the file
                          (0640); checksums: fill those of IP and TCP; redact:
                          leave out passwords, keys and the like

  --print-capabilities    tell what this program can do, as JSON
  --print-states          tell which state there is and how large, as JSON
  --print-profiles        tell the algorithm profiles of this libtpms, as JSON
  --print-info FLAGS      tell about the TPM, as JSON; FLAGS are those of libtpms,
                          added up: 1 specification, 2 attributes, 4 features, 8
                          algorithms, 0x10 commands, 0x20 its profile, 0x40 all
                          profiles, 0x80 more attributes. With a place for its
                          state the TPM is powered on for it
  -h, --help              this text
`

// Help is the help text of swtpm itself: swtpm --help.
func Help() string {
	return `A TPM 1.2 and 2.0 emulator.

Usage: swtpm socket|chardev|cuse [OPTION]...
                                        classic command line; swtpm socket --help
       swtpm run [--instance NAME] PROFILE
       swtpm check PROFILE...           look for mistakes; change nothing
       swtpm doctor [--json] PROFILE... find out why a TPM would not start
       swtpm selftest [--json]          check the installed libraries
       swtpm show [--json] PROFILE      print the profile with every default
       swtpm import -- socket OPTION... print the profile of a command line
       swtpm state VERB ...             work on the state of a TPM that is off
       swtpm completion bash|zsh|fish   print a shell completion script
       swtpm help | version | -h | --help | -v | --version

PROFILE is a path, or the name of a file in /etc/swtpm, /run/swtpm,
/usr/local/lib/swtpm or /usr/lib/swtpm without its .toml; see swtpm.toml(5).
`
}

// VersionLine is what swtpm --version prints, with a newline.
//
// Compat: other programs look for the first three words.
func VersionLine(version string) string {
	return "TPM emulator version " + version + ", Copyright (c) the swtpm-go authors\n"
}
