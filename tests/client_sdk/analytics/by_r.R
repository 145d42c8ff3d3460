# Writes by_r.json with the package survival: Rscript by_r.R FOLDER > by_r.json, where FOLDER has what
# `python -m tests.client_sdk.analytics.cohorts FOLDER` writes.
library(survival)
folder <- commandArgs(trailingOnly = TRUE)[1]
j <- function(x) paste0("[", paste(format(as.numeric(x), digits = 13, trim = TRUE), collapse = ", "), "]")
cat(sprintf('{\n"source": "%s, survival %s"', R.version.string, packageVersion("survival")))
kinds <- c("together", "hospitals", "labels", "late", "weighted", "ridge")
for (name in c("gbsg2", "whas500", "veterans", "flchain", "aids")) for (ties in c("efron", "breslow")) {
  for (kind in kinds) {
    if (name != "gbsg2" && ties == "breslow") next
    if (kind %in% c("weighted", "ridge") && !(name %in% c("gbsg2", "whas500"))) next
    if (kind == "labels" && name %in% c("flchain", "aids")) next
    d <- read.csv(file.path(folder, paste0(name, ".csv")))
    if (kind != "hospitals") d$time <- ceiling(d$time / 30) # 30 days are a step
    d$entry <- floor(d$time / 3)
    d$w <- if (kind == "weighted") (seq_len(nrow(d)) - 1) %% 4 / 2 else 1 # 0, 0.5, 1, 1.5
    asked <- d[c(1, 5), ]
    d <- d[d$w > 0, ]
    left <- if (kind == "late") "Surv(entry, time, event)" else "Surv(time, event)"
    strata <- if (kind %in% c("hospitals", "labels")) "+ strata(site)" else ""
    x <- grep("^x", names(d), value = TRUE)
    right <- if (kind == "ridge") sprintf("ridge(%s, theta = 20, scale = FALSE)", paste(x, collapse = ", ")) else
      paste(x, collapse = "+")
    f <- as.formula(paste(left, "~", right, strata))
    m <- coxph(f, data = d, weights = w, ties = ties, robust = FALSE, control = coxph.control(eps = 1e-14, iter.max = 60,
      outer.max = 60))
    cat(sprintf(',\n"%s %s %s": {\n', name, ties, kind))
    cat(sprintf('  "coefficients": %s,\n  "errors": %s,\n', j(coef(m)), j(sqrt(diag(m$var)))))
    cat(sprintf('  "log_likelihoods": %s', j(m$loglik)))
    if (kind != "ridge") {
      cat(sprintf(',\n  "tests": %s,\n', j(c(2 * diff(m$loglik), m$wald.test, m$score))))
      cat(sprintf('  "identity": %s,\n', j(cox.zph(m, transform = "identity", terms = FALSE)$table[, 1])))
      cat(sprintf('  "log": %s', j(cox.zph(m, transform = "log", terms = FALSE)$table[, 1])))
      if (kind != "weighted") { # R weighs pairs
        pairs <- if (is.null(dim(m$concordance))) m$concordance else colSums(m$concordance)
        cat(sprintf(',\n  "pairs": %s', j(pairs[1:3])))
      }
    }
    if (kind %in% c("together", "late", "weighted")) {
      s <- survfit(m, newdata = asked)
      k <- which(s$n.event > 0)
      k <- k[round(seq(1, length(k), length.out = 5))]
      cat(sprintf(',\n  "times": %s,\n  "survival": [%s, %s],\n', j(s$time[k]), j(s$surv[k, 1]), j(s$surv[k, 2])))
      cat(sprintf('  "hazard_errors": [%s, %s]', j(s$std.err[k, 1]), j(s$std.err[k, 2])))
    }
    cat("\n}")
  }
}
for (name in c("bmt", "cgvhd")) {
  d <- read.csv(file.path(folder, paste0(name, ".csv")))
  for (g in sort(unique(d$group))) {
    own <- d[d$group == g, ]
    s <- survfit(Surv(time, factor(cause, levels = 0:max(d$cause))) ~ 1, data = own)
    k <- round(seq(1, length(s$time), length.out = 6))
    cat(sprintf(',\n"%s incidence %s": {\n  "times": %s,\n  "at_risk": %s,\n', name, g, j(s$time[k]), j(s$n.risk[k, 1])))
    shares <- apply(s$pstate[k, ], 2, j) # of who is in no state yet, then of each event
    cat(sprintf('  "shares": [%s]\n}', paste(shares, collapse = ",\n             ")))
  }
}
cat("\n}\n")
