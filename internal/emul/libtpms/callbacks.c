// The callbacks of libtpms. libtpms frees the memory that on_load returns. on_store must copy the
// memory that it gets.
#include "parts.h"

#include "_cgo_export.h"

static TPM_RESULT on_io_init(void) { return TPM_SUCCESS; }
static TPM_RESULT on_nvram_init(void) { return TPM_SUCCESS; }

static TPM_RESULT on_load(unsigned char **data, uint32_t *len, uint32_t number, const char *name)
{
	TPM_RESULT rc;

	(void)number;
	rc = goLoad(data, len, (char *)name);
	return rc == TPM_SUCCESS || rc == TPM_RETRY ? rc : swtpm_callback_failed(rc);
}

// changed records the result of a change of the store.
static TPM_RESULT changed(TPM_RESULT rc)
{
	if (rc != TPM_SUCCESS)
		return swtpm_callback_failed(rc);
	swtpm_store_changed();
	return rc;
}

static TPM_RESULT on_store(const unsigned char *data, uint32_t len, uint32_t number, const char *name)
{
	TPM_RESULT rc;

	(void)number;
	rc = goStore((unsigned char *)data, len, (char *)name);
	return changed(rc);
}

static TPM_RESULT on_delete(uint32_t number, const char *name, TPM_BOOL must_exist)
{
	TPM_RESULT rc;

	(void)number;
	rc = goDelete((char *)name, must_exist);
	return changed(rc);
}

static TPM_RESULT on_locality(TPM_MODIFIER_INDICATOR *l, uint32_t number)
{
	(void)number;
	*l = swtpm_running_locality();
	return TPM_SUCCESS;
}

TPM_RESULT swtpm_register(void)
{
	struct libtpms_callbacks c = {
		.sizeOfStruct = sizeof c,
		.tpm_nvram_init = on_nvram_init,
		.tpm_nvram_loaddata = on_load,
		.tpm_nvram_storedata = on_store,
		.tpm_nvram_deletename = on_delete,
		.tpm_io_init = on_io_init,
		.tpm_io_getlocality = on_locality,
	};
	return TPMLIB_RegisterCallbacks(&c);
}
