// The operations that OpenSSL refuses on this host, and its random numbers. libtpms loads
// OpenSSL's libcrypto. Its functions are looked up at run time, like the functions of a newer
// libtpms, so that no headers of OpenSSL are needed and no other OpenSSL is loaded than libtpms
// uses.
#ifndef SWTPM_OPENSSL_H
#define SWTPM_OPENSSL_H

extern const unsigned char swtpm_rsa1024[], swtpm_rsa2048[];
extern const long swtpm_rsa1024_size, swtpm_rsa2048_size;

// The following return 1 if OpenSSL refuses the operation, 0 if not, -1 without OpenSSL 3.
int swtpm_refuses_cipher(const char *name);
int swtpm_refuses_curve(const char *name);
int swtpm_refuses_rsa_sign(int bits, const char *digest, int pss);
int swtpm_refuses_rsa_verify(int bits, const char *digest);
int swtpm_refuses_rsa_encrypt(int bits, int padded);
int swtpm_refuses_hmac(const char *digest);

// swtpm_entropy reports whether OpenSSL's random numbers have been seeded; -1 as
// above.
int swtpm_entropy(void);

// swtpm_kernel_random makes OpenSSL take its random numbers from getrandom(2). It returns
// 0 if that is impossible, or in FIPS mode: then OpenSSL uses its own generator.
int swtpm_kernel_random(void);

// swtpm_random fills p with n random bytes of OpenSSL. It returns 1 if that worked.
int swtpm_random(unsigned char *p, int n);

// swtpm_fips reports whether FIPS mode is on. swtpm_fips_off turns it off for this process and
// returns 1 on success; -1 as above.
int swtpm_fips(void);
int swtpm_fips_off(void);

// swtpm_allow_sha1 makes the OpenSSL of some distributions sign with SHA-1.
void swtpm_allow_sha1(void);

#endif
