#include "effect.h"
#include "container.h"
#include "util.h"

static bool lacks_oci_conf;

void effect_begin(spank_t sp)
{
	lacks_oci_conf = container_is_asked(sp) && !container_is_run();
}

void effect_end(void)
{
	if (lacks_oci_conf)
		slurm_spank_log("oci-criu-shim: there is no oci.conf on this node: the step ran outside of its "
				"container, and --checkpoint had no effect");
	lacks_oci_conf = false;
}
