// OpenSSL's random numbers from the kernel.
//
// OpenSSL 3 has three generators (CTR-DRBG) of its own, which it seeds from the kernel:
// memory and time for each TPM, and a state in memory that could be copied. The kernel's
// generator has none of that. In FIPS mode only OpenSSL's own are approved.

#define _GNU_SOURCE
#include "openssl.h"

#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <sys/random.h>

// fill reads n random bytes from the kernel. It returns 1, or 0 on failure.
static int fill(unsigned char *p, int n)
{
	while (n > 0) {
		ssize_t got = getrandom(p, (size_t)n, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return 0;
		p += got;
		n -= (int)got;
	}
	return 1;
}

static int status(void)
{
	unsigned char byte;

	return fill(&byte, 1);
}

static int seed(const void *p, int n) { return 1; }
static int add(const void *p, int n, double entropy) { return 1; }

// struct rand_meth_st of <openssl/rand.h>, which has been the same since OpenSSL 1.1.
static const struct {
	int (*seed)(const void *p, int n);
	int (*bytes)(unsigned char *p, int n);
	void (*cleanup)(void);
	int (*add)(const void *p, int n, double entropy);
	int (*pseudorand)(unsigned char *p, int n);
	int (*status)(void);
} method = { seed, fill, NULL, add, fill, status };

int swtpm_kernel_random(void)
{
	int (*set)(const void *method) = (int (*)(const void *))dlsym(RTLD_DEFAULT, "RAND_set_rand_method");

	// The question makes OpenSSL read its configuration.
	return swtpm_fips() == 0 && set != NULL && status() && set(&method) == 1;
}

int swtpm_random(unsigned char *p, int n)
{
	int (*bytes)(unsigned char *p, int n) = (int (*)(unsigned char *, int))dlsym(RTLD_DEFAULT, "RAND_bytes");

	return bytes != NULL && bytes(p, n) == 1;
}
