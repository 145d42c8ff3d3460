# Writes cox_by_r.json with the package survival: Rscript cox_by_r.R FOLDER, where FOLDER has a cohort's columns as
# gbsg2.csv, whas500.csv and veterans.csv (time, event, site, x0, x1, ...), as cohorts.py makes them.
library(survival)
folder <- commandArgs(trailingOnly = TRUE)[1]
j <- function(x) paste0("[", paste(format(as.numeric(x), digits = 13, trim = TRUE), collapse = ", "), "]")
cat(sprintf('{\n"source": "%s, survival %s"', R.version.string, packageVersion("survival")))
for (name in c("gbsg2", "whas500", "veterans")) for (ties in c("efron", "breslow")) {
  for (kind in c("together", "hospitals", "labels", "late")) {
    if (name != "gbsg2" && ties == "breslow") next
    d <- read.csv(file.path(folder, paste0(name, ".csv")))
    if (kind != "hospitals") d$time <- ceiling(d$time / 30) # 30 days are a step
    d$entry <- floor(d$time / 3)
    left <- if (kind == "late") "Surv(entry, time, event)" else "Surv(time, event)"
    strata <- if (kind %in% c("hospitals", "labels")) "+ strata(site)" else ""
    f <- as.formula(paste(left, "~", paste(grep("^x", names(d), value = TRUE), collapse = "+"), strata))
    m <- coxph(f, data = d, ties = ties, control = coxph.control(eps = 1e-14, iter.max = 60))
    pairs <- if (is.null(dim(m$concordance))) m$concordance else colSums(m$concordance)
    cat(sprintf(',\n"%s %s %s": {\n', name, ties, kind))
    cat(sprintf('  "coefficients": %s,\n  "errors": %s,\n', j(coef(m)), j(sqrt(diag(vcov(m))))))
    cat(sprintf('  "log_likelihoods": %s,\n', j(m$loglik)))
    cat(sprintf('  "tests": %s,\n', j(c(summary(m)$logtest[1], m$wald.test, m$score))))
    cat(sprintf('  "pairs": %s,\n', j(pairs[1:3])))
    cat(sprintf('  "identity": %s,\n', j(cox.zph(m, transform = "identity", terms = FALSE)$table[, 1])))
    cat(sprintf('  "log": %s', j(cox.zph(m, transform = "log", terms = FALSE)$table[, 1])))
    if (kind %in% c("together", "late")) {
      s <- survfit(m, newdata = d[c(1, 5), ])
      k <- which(s$n.event > 0)
      k <- k[round(seq(1, length(k), length.out = 5))]
      cat(sprintf(',\n  "times": %s,\n  "survival": [%s, %s],\n', j(s$time[k]), j(s$surv[k, 1]), j(s$surv[k, 2])))
      cat(sprintf('  "hazard_errors": [%s, %s]', j(s$std.err[k, 1]), j(s$std.err[k, 2])))
    }
    cat("\n}")
  }
}
cat("\n}\n")
