// What OpenSSL does and refuses on this host. libtpms brings OpenSSL's libcrypto
// along; its functions are looked up at run time, as are those of newer libtpms:
// we need no headers of OpenSSL, and never load another one than libtpms uses.
#ifndef SWTPM_OPENSSL_H
#define SWTPM_OPENSSL_H

extern const unsigned char swtpm_rsa1024[], swtpm_rsa2048[];
extern const long swtpm_rsa1024_size, swtpm_rsa2048_size;

// Whether OpenSSL refuses something: 1, 0, or -1 if there is no OpenSSL 3.
int swtpm_refuses_cipher(const char *name);
int swtpm_refuses_curve(const char *name);
int swtpm_refuses_rsa_sign(int bits, const char *digest, int pss);
int swtpm_refuses_rsa_verify(int bits, const char *digest);
int swtpm_refuses_rsa_encrypt(int bits, int padded);
int swtpm_refuses_hmac(const char *digest);

// swtpm_entropy says whether OpenSSL's random numbers have been seeded; -1 as
// above.
int swtpm_entropy(void);

// swtpm_kernel_random makes OpenSSL take its random numbers from getrandom(2). It returns
// 0 if that cannot be, or in FIPS mode: then OpenSSL makes them as ever.
int swtpm_kernel_random(void);

// swtpm_random fills p with n random bytes of OpenSSL. It returns 1 if that worked.
int swtpm_random(unsigned char *p, int n);

// swtpm_fips says whether FIPS mode is on, swtpm_fips_off turns it off for this
// process and returns 1 if that worked; -1 as above.
int swtpm_fips(void);
int swtpm_fips_off(void);

// swtpm_allow_sha1 tells the OpenSSL of some distributions to sign with SHA-1.
void swtpm_allow_sha1(void);

#endif
