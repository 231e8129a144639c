"""The host's guiders of three conditionings, by name."""


def host_guiders():
    """Functions (model, conds) -> a guider; conds are three CONDITIONINGs."""
    import comfy.samplers
    from comfy_extras import nodes_custom_sampler as custom
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    def basic(model, a, b, c):
        guider = custom.Guider_Basic(model)
        guider.set_conds(a)
        return guider

    def cfg(model, a, b, c):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(a, b)
        guider.set_cfg(3.0)
        return guider

    def dual(nested, first=3.0, second=2.0):
        def build(model, a, b, c):
            guider = custom.Guider_DualCFG(model)
            guider.set_conds(a, b, c)
            guider.set_cfg(first, second, nested)
            return guider

        return build

    def perp_neg(model, a, b, c):
        guider = Guider_PerpNeg(model)
        guider.set_conds(a, b, c)
        guider.set_cfg(3.0, 1.0)
        return guider

    return {
        "BasicGuider": basic,
        "CFGGuider": cfg,
        "DualCFG": dual(False),
        "DualCFG at 1": dual(False, 1.0, 1.0),
        "DualCFG nested": dual(True),
        "PerpNeg": perp_neg,
    }
