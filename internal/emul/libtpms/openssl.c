#define _GNU_SOURCE
#include "openssl.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Padding modes of <openssl/rsa.h>, the number of RSA of <openssl/obj_mac.h>, an option of
// <openssl/crypto.h>.
enum { PKCS1 = 1, NONE = 3, PSS = 6, RSA = 6, NO_LOAD_CRYPTO_STRINGS = 1 };

// The prototypes are those of OpenSSL 3.0; pointers to its types are void.
static struct {
	int found; // 1 if all exist, -1 if not; 0 before load
	const void *(*get_cipher)(const char *name);
	const void *(*get_digest)(const char *name);
	void *(*cipher_new)(void);
	void (*cipher_free)(void *c);
	int (*encrypt_init)(void *c, const void *cipher, void *engine, const unsigned char *key, const unsigned char *iv);
	void *(*d2i)(int type, void **key, const unsigned char **der, long size);
	void *(*keygen)(void *lib, const char *props, const char *type, ...);
	void (*key_free)(void *key);
	void *(*ctx_new)(void *key, void *engine);
	void (*ctx_free)(void *c);
	int (*sign_init)(void *c);
	int (*sign)(void *c, unsigned char *sig, size_t *siglen, const unsigned char *tbs, size_t n);
	int (*verify_init)(void *c);
	int (*set_padding)(void *c, int padding);
	int (*set_digest)(void *c, const void *digest);
	int (*rsa_encrypt_init)(void *c);
	int (*rsa_encrypt)(void *c, unsigned char *out, size_t *outlen, const unsigned char *in, size_t n);
	int (*digest_size)(const void *digest);
	unsigned char *(*hmac)(const void *digest, const void *key, int keylen, const unsigned char *d, size_t n,
		unsigned char *md, unsigned int *mdlen);
	int (*rand_status)(void);
	int (*fips)(void *lib);
	int (*fips_on)(void *lib, int on);
	void (*clear_errors)(void);
} ssl;

// no_texts prevents OpenSSL from loading the texts of its errors, which would cost each process
// 85 kB, because neither libtpms nor this program prints them. It has no effect after the first use
// of OpenSSL.
static void no_texts(void)
{
	int (*init)(uint64_t options, const void *settings) = (int (*)(uint64_t, const void *))dlsym(RTLD_DEFAULT, "OPENSSL_init_crypto");

	if (init != NULL)
		init(NO_LOAD_CRYPTO_STRINGS, NULL);
}

// load looks up the functions. The caller holds the engine's lock, or no other thread uses OpenSSL.
static int load(void)
{
	const struct {
		void *to;
		const char *name;
	} all[] = {
		{ &ssl.get_cipher, "EVP_get_cipherbyname" },
		{ &ssl.get_digest, "EVP_get_digestbyname" },
		{ &ssl.cipher_new, "EVP_CIPHER_CTX_new" },
		{ &ssl.cipher_free, "EVP_CIPHER_CTX_free" },
		{ &ssl.encrypt_init, "EVP_EncryptInit_ex" },
		{ &ssl.d2i, "d2i_PrivateKey" },
		{ &ssl.keygen, "EVP_PKEY_Q_keygen" },
		{ &ssl.key_free, "EVP_PKEY_free" },
		{ &ssl.ctx_new, "EVP_PKEY_CTX_new" },
		{ &ssl.ctx_free, "EVP_PKEY_CTX_free" },
		{ &ssl.sign_init, "EVP_PKEY_sign_init" },
		{ &ssl.sign, "EVP_PKEY_sign" },
		{ &ssl.verify_init, "EVP_PKEY_verify_init" },
		{ &ssl.set_padding, "EVP_PKEY_CTX_set_rsa_padding" },
		{ &ssl.set_digest, "EVP_PKEY_CTX_set_signature_md" },
		{ &ssl.rsa_encrypt_init, "EVP_PKEY_encrypt_init" },
		{ &ssl.rsa_encrypt, "EVP_PKEY_encrypt" },
		{ &ssl.digest_size, "EVP_MD_get_size" },
		{ &ssl.hmac, "HMAC" },
		{ &ssl.rand_status, "RAND_status" },
		{ &ssl.fips, "EVP_default_properties_is_fips_enabled" },
		{ &ssl.fips_on, "EVP_default_properties_enable_fips" },
		{ &ssl.clear_errors, "ERR_clear_error" },
	};

	if (ssl.found != 0)
		return ssl.found;
	ssl.found = 1;
	no_texts();
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		void *f = dlsym(RTLD_DEFAULT, all[i].name);

		if (f == NULL)
			ssl.found = -1;
		memcpy(all[i].to, &f, sizeof f);
	}
	return ssl.found;
}

// refused returns the opposite of worked. It clears OpenSSL's errors, so that libtpms does not take
// them for errors of its own calls.
static int refused(int worked)
{
	ssl.clear_errors();
	return !worked;
}

int swtpm_refuses_cipher(const char *name)
{
	static const unsigned char zero[32];
	const void *cipher;
	void *c;
	int ok;

	if (load() < 0)
		return -1;
	cipher = ssl.get_cipher(name);
	c = ssl.cipher_new();
	ok = cipher != NULL && c != NULL && ssl.encrypt_init(c, cipher, NULL, zero, zero) > 0;
	ssl.cipher_free(c);
	return refused(ok);
}

int swtpm_refuses_curve(const char *name)
{
	void *key;
	int ok;

	if (load() < 0)
		return -1;
	key = ssl.keygen(NULL, NULL, "EC", name);
	ok = key != NULL;
	ssl.key_free(key);
	return refused(ok);
}

// rsa returns a context for the key of that many bits, NULL if it is refused.
static void *rsa(int bits)
{
	const unsigned char *der = bits == 1024 ? swtpm_rsa1024 : swtpm_rsa2048;
	long size = bits == 1024 ? swtpm_rsa1024_size : swtpm_rsa2048_size;
	void *key = ssl.d2i(RSA, NULL, &der, size);
	void *c = key == NULL ? NULL : ssl.ctx_new(key, NULL);

	ssl.key_free(key); // the context has a reference of its own
	return c;
}

int swtpm_refuses_rsa_sign(int bits, const char *digest, int pss)
{
	static const unsigned char tbs[64];
	unsigned char sig[256];
	size_t n = sizeof sig;
	const void *md;
	void *c;
	int ok;

	if (load() < 0)
		return -1;
	md = ssl.get_digest(digest);
	c = rsa(bits);
	ok = md != NULL && c != NULL && ssl.sign_init(c) > 0 && ssl.set_padding(c, pss ? PSS : PKCS1) > 0 &&
		ssl.set_digest(c, md) > 0 && ssl.sign(c, sig, &n, tbs, (size_t)ssl.digest_size(md)) > 0;
	ssl.ctx_free(c);
	return refused(ok);
}

// This function verifies no signature, because OpenSSL rejects the digest before that.
int swtpm_refuses_rsa_verify(int bits, const char *digest)
{
	const void *md;
	void *c;
	int ok;

	if (load() < 0)
		return -1;
	md = ssl.get_digest(digest);
	c = rsa(bits);
	ok = md != NULL && c != NULL && ssl.verify_init(c) > 0 && ssl.set_padding(c, PSS) > 0 && ssl.set_digest(c, md) > 0;
	ssl.ctx_free(c);
	return refused(ok);
}

int swtpm_refuses_rsa_encrypt(int bits, int padded)
{
	static const unsigned char zero[256];
	unsigned char out[256];
	size_t n = sizeof out;
	void *c;
	int ok;

	if (load() < 0)
		return -1;
	c = rsa(bits);
	ok = c != NULL && ssl.rsa_encrypt_init(c) > 0 && ssl.set_padding(c, padded ? PKCS1 : NONE) > 0 &&
		ssl.rsa_encrypt(c, out, &n, zero, padded ? 16 : (size_t)bits / 8) > 0;
	ssl.ctx_free(c);
	return refused(ok);
}

int swtpm_refuses_hmac(const char *digest)
{
	static const unsigned char zero[64];
	unsigned char md[64];
	unsigned int n = 0;
	const void *d;

	if (load() < 0)
		return -1;
	d = ssl.get_digest(digest);
	return refused(d != NULL && ssl.hmac(d, zero, 20, zero, 20, md, &n) != NULL);
}

int swtpm_entropy(void)
{
	if (load() < 0)
		return -1;
	return !refused(ssl.rand_status() == 1);
}

int swtpm_fips(void)
{
	if (load() < 0)
		return -1;
	return ssl.fips(NULL) == 1;
}

int swtpm_fips_off(void)
{
	if (load() < 0)
		return -1;
	return !refused(ssl.fips_on(NULL, 0) == 1);
}

void swtpm_allow_sha1(void) { setenv("OPENSSL_ENABLE_SHA1_SIGNATURES", "1", 1); }
