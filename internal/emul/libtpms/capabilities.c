// The output of --print-capabilities without the start of the Go runtime, which takes most of the
// time of that option: libvirt calls it often. printCapabilities of cmd/swtpm prints the same; a test
// compares them.
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// As in internal/program.
#define REFERENCE_VERSION "0.11.0"

// rsa_sizes appends the sizes of RSA keys that the library has. It returns 0 if that fails.
static int rsa_sizes(FILE *out, TPMLIB_TPMVersion version)
{
	static const char key[] = "\"RSAKeySizes\":[";
	char *info, *at, *size;

	if (TPMLIB_ChooseTPMVersion(version) != TPM_SUCCESS)
		return 0;
	info = TPMLIB_GetInfo(TPMLIB_INFO_TPMFEATURES);
	if (info == NULL)
		return 0;
	at = strstr(info, key);
	if (at != NULL) {
		at += strlen(key);
		at[strcspn(at, "]")] = 0;
		while ((size = strsep(&at, ",")) != NULL)
			fprintf(out, ", \"rsa-keysize-%s\"", size);
	}
	free(info);
	return 1;
}

// describe writes the output to out. It returns 0 if Go has to do it.
static int describe(FILE *out, TPMLIB_TPMVersion version)
{
	int v12 = TPMLIB_ChooseTPMVersion(TPMLIB_TPM_VERSION_1_2) == TPM_SUCCESS;
	int v20 = TPMLIB_ChooseTPMVersion(TPMLIB_TPM_VERSION_2) == TPM_SUCCESS;

	fprintf(out, "{ \"type\": \"swtpm\", \"features\": [ %s%s\"tpm-send-command-header\", "
		"\"flags-opt-startup\", \"flags-opt-disable-auto-shutdown\", \"ctrl-opt-terminate\", \"cmdarg-seccomp\", "
		"\"cmdarg-key-fd\", \"cmdarg-pwd-fd\", \"cmdarg-print-states\", \"cmdarg-chroot\", \"cmdarg-migration\", "
		"\"nvram-backend-dir\", \"nvram-backend-file\"",
		v12 ? "\"tpm-1.2\", " : "", v20 ? "\"tpm-2.0\", " : "");
	if (!rsa_sizes(out, version))
		return 0;
	fprintf(out, ", \"tpmstate-opt-lock\", \"tpmstate-dir-backend-opt-backup\", \"tpmstate-dir-backend-opt-fsync\", "
		"\"cmdarg-pcap\", \"systemd-notify\" ], \"profiles\": { }, \"version\": \"" REFERENCE_VERSION "\" }\n");
	return 1;
}

// swtpm_print_capabilities prints the output, and returns 1. It prints nothing and returns 0 if Go
// has to do it: for a library with algorithm profiles, and for an error.
int swtpm_print_capabilities(int version2)
{
	char line[4096];
	FILE *out = swtpm_has_profiles() ? NULL : fmemopen(line, sizeof(line), "w");
	int ok;

	if (out == NULL)
		return 0;
	ok = describe(out, version2 ? TPMLIB_TPM_VERSION_2 : TPMLIB_TPM_VERSION_1_2);
	ok = fclose(out) == 0 && ok && strlen(line) < sizeof(line) - 1;
	return ok && write(STDOUT_FILENO, line, strlen(line)) == (ssize_t)strlen(line);
}
