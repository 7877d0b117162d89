/* Puts one flaw into libcrypto, chosen by -DFLAW_…; the test loads it with LD_PRELOAD. */
#define _GNU_SOURCE
#define OPENSSL_SUPPRESS_DEPRECATED
#include <dlfcn.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#define NEXT(f) ((__typeof__(&f))dlsym(RTLD_NEXT, #f))

#ifdef FLAW_IV /* CVE-2021-3446, CVE-2026-21444: the first IV is returned for the next block */
static unsigned char first[16];

static void save(const unsigned char *iv)
{
    if (iv)
        memcpy(first, iv, sizeof first);
}

int EVP_EncryptInit_ex(EVP_CIPHER_CTX *c, const EVP_CIPHER *t, ENGINE *e, const unsigned char *key, const unsigned char *iv)
{
    save(iv);
    return NEXT(EVP_EncryptInit_ex)(c, t, e, key, iv);
}

int EVP_DecryptInit_ex(EVP_CIPHER_CTX *c, const EVP_CIPHER *t, ENGINE *e, const unsigned char *key, const unsigned char *iv)
{
    save(iv);
    return NEXT(EVP_DecryptInit_ex)(c, t, e, key, iv);
}

const unsigned char *EVP_CIPHER_CTX_iv(const EVP_CIPHER_CTX *c)
{
    return first;
}

int EVP_CIPHER_CTX_get_params(EVP_CIPHER_CTX *c, OSSL_PARAM params[])
{
    int rc = NEXT(EVP_CIPHER_CTX_get_params)(c, params);
    for (OSSL_PARAM *p = params; p->key; p++)
        if (!strcmp(p->key, "updated-iv") && p->data_type == OSSL_PARAM_OCTET_STRING)
            memcpy(p->data, first, sizeof first);
    return rc;
}
#endif

#ifdef FLAW_RANDOM /* the generator is always seeded with the same bytes */
int RAND_bytes(unsigned char *b, int n)
{
    memset(b, 0x5a, n);
    return 1;
}
#endif

#ifdef FLAW_KEY_SIZE /* half of the key is used */
const EVP_CIPHER *EVP_aes_256_cbc(void)
{
    return EVP_aes_128_cbc();
}
#endif

#ifdef FLAW_HASH /* one bit is wrong if the padding needs a block of its own */
int SHA256_Final(unsigned char *md, SHA256_CTX *c)
{
    int own = c->num >= 56, rc = NEXT(SHA256_Final)(md, c);
    md[0] ^= own;
    return rc;
}
#endif

#ifdef FLAW_RSA /* as CVE-2022-2274: the private operation is wrong */
int EVP_PKEY_sign(EVP_PKEY_CTX *c, unsigned char *sig, size_t *n, const unsigned char *m, size_t len)
{
    int rc = NEXT(EVP_PKEY_sign)(c, sig, n, m, len);
    if (sig && *n > 200)
        sig[200] ^= 1;
    return rc;
}
#endif

#ifdef FLAW_RSA_VERIFY /* each signature is good */
int EVP_PKEY_verify(EVP_PKEY_CTX *c, const unsigned char *sig, size_t n, const unsigned char *m, size_t len)
{
    return 1;
}
#endif

#ifdef FLAW_ECDSA_VERIFY
int ECDSA_do_verify(const unsigned char *m, int n, const ECDSA_SIG *sig, EC_KEY *k)
{
    return 1;
}
#endif

#ifdef FLAW_ECDH /* the product is another point of the curve */
int EC_POINT_mul(const EC_GROUP *g, EC_POINT *r, const BIGNUM *n, const EC_POINT *q, const BIGNUM *m, BN_CTX *c)
{
    int rc = NEXT(EC_POINT_mul)(g, r, n, q, m, c);
    return q && rc ? EC_POINT_dbl(g, r, r, c) : rc;
}
#endif

#ifdef FLAW_CRASH
int SHA384_Final(unsigned char *md, SHA512_CTX *c)
{
    abort();
}
#endif
